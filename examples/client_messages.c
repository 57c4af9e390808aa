/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>

#include <slipstream.h>

/*
 * Two agents of a workflow talk through Slipstream's mailbox: a planner sends two tasks to a worker
 * and waits for the answers.
 *
 *   cc client_messages.c $(pkg-config --static --cflags --libs slipstream) -o client_messages
 *   ./client_messages ipc:///run/slipstream/sock/mailbox
 */
static int fail(const struct slipstream *s, const char *doing, int error)
{
    fprintf(stderr, "%s: %s (%s)\n", doing, s != NULL ? slipstream_last_error(s) : "",
            slipstream_error_code(error));
    return 1;
}

static int send_one(struct slipstream *s, const char *from, const char *to, const char *type,
                    const char *payload)
{
    struct slipstream_message m = {
        .source = from,
        .target = to,
        .type = type,
        .payload = payload,
        .payload_len = strlen(payload),
    };
    const struct slipstream_send_options o = {.workflow = "example"};
    struct slipstream_sent_list *sent;
    int error = slipstream_send(s, &o, &m, 1, &sent);

    if (error != SLIPSTREAM_OK)
        return error;
    error = sent->items[0].error; /* the mailbox judges each message */
    if (error == SLIPSTREAM_OK)
        printf("%s -> %s: %s\n", from, to, payload);
    slipstream_free(sent);
    return error;
}

/* What the worker does: takes its tasks and answers each. */
static int work(struct slipstream *s)
{
    struct slipstream_receive_options o = {
        .workflow = "example", .agent = "worker", .wait_ms = 1000};
    struct slipstream_messages *tasks;
    int error = slipstream_receive(s, &o, &tasks);
    size_t i;

    if (error != SLIPSTREAM_OK)
        return error;
    for (i = 0; i < tasks->count && error == SLIPSTREAM_OK; i++) {
        char answer[256];

        snprintf(answer, sizeof(answer), "{\"done\": %.200s}", tasks->items[i].payload);
        error = send_one(s, "worker", tasks->items[i].source, "result", answer);
    }
    slipstream_free(tasks);
    return error;
}

int main(int argc, char **argv)
{
    struct slipstream_options options = {
        .mailbox_url = argc > 1 ? argv[1] : NULL,
        .name = "example",
    };
    static const char *const types[] = {"result"};
    struct slipstream_receive_options o = {.workflow = "example",
                                           .agent = "planner",
                                           .wait_ms = 1000,
                                           .types = types,
                                           .type_count = 1};
    struct slipstream_messages *results;
    struct slipstream *s;
    size_t i, left = 2;
    int error = slipstream_open(&options, &s);

    if (error != SLIPSTREAM_OK)
        return fail(NULL, "open", error);
    error = send_one(s, "planner", "worker", "task", "\"read the file\"");
    if (error == SLIPSTREAM_OK)
        error = send_one(s, "planner", "worker", "task", "\"write the test\"");
    if (error == SLIPSTREAM_OK)
        error = work(s);
    while (error == SLIPSTREAM_OK && left > 0) {
        error = slipstream_receive(s, &o, &results);
        if (error != SLIPSTREAM_OK)
            break;
        for (i = 0; i < results->count && left > 0; i++, left--)
            printf("planner got from %s: %s\n", results->items[i].source,
                   results->items[i].payload);
        if (results->count == 0)
            left = 0; /* the time is up */
        slipstream_free(results);
    }
    if (error != SLIPSTREAM_OK)
        error = fail(s, "example", error);
    slipstream_close(s);
    return error;
}
