/* SPDX-License-Identifier: Apache-2.0 */
#include "gateway/identity.h"

#include <string.h>
#include <strings.h>

#include "gateway/members.h"

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

enum err identity_segment(const char *s, size_t len, struct inspect_id *out)
{
    char bytes[INSPECT_ID_MAX];
    size_t n = 0;

    for (size_t i = 0; i < len; i++, n++) {
        int high, low;

        if (n == sizeof(bytes))
            return ERR_ID;
        bytes[n] = s[i];
        if (s[i] != '%')
            continue;
        if (len - i < 3)
            return ERR_ID;
        high = hex_value(s[i + 1]);
        low = hex_value(s[i + 2]);
        if (high < 0 || low < 0)
            return ERR_ID;
        bytes[n] = (char)(high << 4 | low);
        i += 2;
    }
    if (memchr(bytes, '/', n) != NULL || (n == 1 && bytes[0] == '.') ||
        (n == 2 && memcmp(bytes, "..", 2) == 0))
        return ERR_ID;
    return inspect_id_set(out, bytes, n) ? ERR_OK : ERR_ID;
}

/* Does [s, s + len) begin with prefix, followed by its end, '/' or '?'? */
static bool is_under(const char *s, size_t len, const char *prefix)
{
    size_t n = strlen(prefix);

    return len >= n && memcmp(s, prefix, n) == 0 && (len == n || s[n] == '/' || s[n] == '?');
}

/* Takes the segment at *s (behind a '/') and moves *s to what follows it. */
static enum err segment_take(const char **s, size_t *len, struct inspect_id *out)
{
    size_t n = 0;
    enum err e;

    while (n < *len && (*s)[n] != '/' && (*s)[n] != '?')
        n++;
    e = identity_segment(*s, n, out);
    *s += n;
    *len -= n;
    return e;
}

enum err identity_path(const char *path, size_t len, struct identity *id, const char **rest,
                       size_t *rest_len)
{
    static const char workflows[] = "/wf/", agents[] = "/agents/";
    struct inspect_id workflow, agent = {0};
    const char *s = path;
    size_t left = len;

    if (!is_under(path, len, "/wf")) {
        *rest = path;
        *rest_len = len;
        return ERR_OK;
    }
    id->err_param = "workflow_id";
    if (left < sizeof(workflows) - 1 || memcmp(s, workflows, sizeof(workflows) - 1) != 0)
        return ERR_ID;
    s += sizeof(workflows) - 1;
    left -= sizeof(workflows) - 1;
    if (segment_take(&s, &left, &workflow) != ERR_OK)
        return ERR_ID;
    if (left >= sizeof(agents) - 1 && memcmp(s, agents, sizeof(agents) - 1) == 0) {
        s += sizeof(agents) - 1;
        left -= sizeof(agents) - 1;
        id->err_param = "agent_id";
        if (segment_take(&s, &left, &agent) != ERR_OK)
            return ERR_ID;
    }
    id->err_param = NULL;
    if (!is_under(s, left, "/v1") && !is_under(s, left, "/mcp"))
        return ERR_PATH;
    id->source = IDENTITY_PATH;
    id->workflow_id = workflow;
    id->agent_id = agent;
    *rest = s;
    *rest_len = left;
    return ERR_OK;
}

/* A stronger source names this workflow: what a weaker one said of another does not count. */
static void workflow_set(struct identity *id, const struct inspect_id *workflow,
                         enum identity_source source)
{
    bool other = id->workflow_id.len != 0 &&
                 (id->workflow_id.len != workflow->len ||
                  memcmp(id->workflow_id.bytes, workflow->bytes, workflow->len) != 0);

    if (other)
        *id = (struct identity){.conflict = true};
    id->workflow_id = *workflow;
    id->source = source;
}

static void id_overlay(struct inspect_id *weaker, const struct inspect_id *stronger)
{
    if (stronger->len != 0)
        *weaker = *stronger;
}

static enum err header_id(struct identity *id, const char *value, size_t len, const char *name,
                          struct inspect_id *out)
{
    if (value == NULL || inspect_id_set(out, value, len))
        return ERR_OK;
    id->err_param = name;
    return ERR_ID;
}

static bool flag_find(const char *s, size_t len, bool *out)
{
    bool yes = (len == 1 && s[0] == '1') || (len == 4 && strncasecmp(s, "true", 4) == 0);
    bool no = (len == 1 && s[0] == '0') || (len == 5 && strncasecmp(s, "false", 5) == 0);

    *out = yes;
    return yes || no;
}

enum err identity_headers_add(struct identity *id, const struct identity_headers *h)
{
    struct inspect_id workflow = {0}, agent = {0}, parent = {0};
    uint8_t strategy = 0, priority = 0;
    bool final = false;

    if (header_id(id, h->workflow_id, h->workflow_id_len, "X-Workflow-ID", &workflow) != ERR_OK ||
        header_id(id, h->agent_id, h->agent_id_len, "X-Agent-ID", &agent) != ERR_OK ||
        header_id(id, h->parent_request_id, h->parent_request_id_len, "X-Parent-Request-ID",
                  &parent) != ERR_OK)
        return ERR_ID;
    id->err_param = "X-Context-Sharing";
    if (h->context_sharing != NULL &&
        !strategy_find(h->context_sharing, h->context_sharing_len, &strategy))
        return ERR_VALUE;
    id->err_param = "X-Workflow-Priority";
    if (h->priority != NULL && !priority_find(h->priority, h->priority_len, &priority))
        return ERR_VALUE;
    id->err_param = "X-Workflow-Final";
    if (h->final != NULL && !flag_find(h->final, h->final_len, &final))
        return ERR_VALUE;
    id->err_param = NULL;
    if (workflow.len != 0)
        workflow_set(id, &workflow, IDENTITY_HEADER);
    id_overlay(&id->agent_id, &agent);
    id_overlay(&id->parent_request_id, &parent);
    if (h->context_sharing != NULL)
        id->strategy = strategy;
    if (h->priority != NULL)
        id->priority = priority;
    if (h->final != NULL)
        id->final = final;
    return ERR_OK;
}

enum err identity_body_add(struct identity *id, const struct inspect_metadata *md)
{
    if (md == NULL || !md->present)
        return ERR_OK;
    if (md->workflow_id.len != 0)
        workflow_set(id, &md->workflow_id, IDENTITY_BODY);
    id_overlay(&id->agent_id, &md->agent_id);
    id_overlay(&id->parent_request_id, &md->parent_request_id);
    id_overlay(&id->group_id, &md->group_id);
    id_overlay(&id->profile, &md->profile);
    if (md->has_strategy)
        id->strategy = md->strategy;
    if (md->has_priority)
        id->priority = md->priority;
    if (md->has_final)
        id->final = md->final;
    if (md->group_size != 0)
        id->group_size = md->group_size;
    return ERR_OK;
}
