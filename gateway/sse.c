/* SPDX-License-Identifier: Apache-2.0 */
#include "gateway/sse.h"

#include <string.h>

#define HELD_MAX 65536u

/* Where in a line: up to the fifth byte, how much of "data:" it has matched. */
enum line { LINE_BEGIN = 0, LINE_DATA_BEGIN = 5, LINE_DATA, LINE_COMMENT, LINE_OTHER };

static const char data_name[] = "data:", done_mark[] = "[DONE]";
enum { DONE_LEN = sizeof(done_mark) - 1, DONE_NOT = 255 };

void tap_start(struct tap *t, bool is_sse, bool drop_usage)
{
    struct buf held = t->held;

    buf_clear(&held);
    *t = (struct tap){.is_sse = is_sse, .drop_usage = is_sse && drop_usage, .held = held};
    scan_start(&t->scan);
}

void tap_fini(struct tap *t)
{
    buf_fini(&t->held);
}

/* What becomes of the bytes of one piece: [0, from) has been dealt with. */
struct piece {
    const char *in;
    size_t from;
    struct buf *out;
    bool rewritten;
};

static void piece_rewrite(struct piece *p)
{
    if (!p->rewritten)
        buf_add(p->out, p->in, p->from);
    p->rewritten = true;
}

static void piece_pass(struct piece *p, struct tap *t, size_t to)
{
    if (t->held.len > 0) {
        piece_rewrite(p);
        buf_add(p->out, t->held.base, t->held.len);
        buf_clear(&t->held);
    }
    if (p->rewritten)
        buf_add(p->out, p->in + p->from, to - p->from);
    p->from = to;
}

static void piece_drop(struct piece *p, struct tap *t, size_t to)
{
    if (to > p->from)
        piece_rewrite(p);
    buf_clear(&t->held);
    p->from = to;
}

static void piece_hold(struct piece *p, struct tap *t, size_t to)
{
    if (to == p->from)
        return;
    if (to - p->from > HELD_MAX - t->held.len) {
        t->is_decided = true;
        piece_pass(p, t, to);
        return;
    }
    piece_rewrite(p);
    buf_add(&t->held, p->in + p->from, to - p->from);
    p->from = to;
}

static bool is_usage_event(const struct tap *t)
{
    return !t->is_decided && t->has_data && t->scan.has_choices && !t->scan.has_choice &&
           t->scan.has_usage;
}

/* Data that begins as the end mark does is no object, whatever follows in this piece or the next.
 */
static void done_look(struct tap *t, const char *s, size_t n)
{
    size_t i;

    for (i = 0; i < n && t->done < DONE_LEN && s[i] == done_mark[t->done]; i++)
        t->done++;
    t->is_decided |= t->done > 0 && t->done != DONE_NOT;
    if (i < n)
        t->done = DONE_NOT;
}

/* Bytes of a data line behind the colon and its space. */
static void data_look(struct tap *t, const char *s, size_t n)
{
    t->has_data = true;
    done_look(t, s, n);
    scan_feed(&t->scan, &t->usage, s, n);
    if (t->scan.has_choice || t->scan.has_type || t->scan.is_error)
        t->is_decided = true;
}

/* Bytes of a line, without its end. */
static void line_look(struct tap *t, const char *s, size_t n)
{
    size_t i = 0;

    if (n == 0)
        return;
    if (!t->line_begun && s[0] == ':')
        t->line = LINE_COMMENT;
    t->line_begun = true;
    while (i < n && t->line < LINE_DATA_BEGIN)
        t->line = s[i++] == data_name[t->line] ? (uint8_t)(t->line + 1) : (uint8_t)LINE_OTHER;
    if (i < n && t->line == LINE_DATA_BEGIN) {
        if (s[i] == ' ')
            i++;
        t->line = LINE_DATA;
    }
    if (i < n && t->line == LINE_DATA)
        data_look(t, s + i, n - i);
}

static void event_reset(struct tap *t)
{
    t->has_data = false;
    t->is_decided = false;
    t->done = 0;
    scan_start(&t->scan);
}

/* What is known of the event by now; called at its end and in between. */
static void event_note(struct tap *t)
{
    t->seen_token |= t->scan.is_token;
    t->seen_error |= t->scan.is_error;
    t->seen_done |= t->scan.has_type && t->scan.is_finished;
    if (t->usage.cached_tokens > t->usage.prompt_tokens && t->usage.has_usage)
        t->usage.prompt_tokens += t->usage.cached_tokens; /* counted apart, as Anthropic does */
}

/* The line that ended just before to is complete; an empty one ends the event. */
static void line_end(struct tap *t, struct piece *p, size_t to)
{
    bool is_comment = t->line == LINE_COMMENT;

    t->seen_done |= t->done == DONE_LEN;
    if (!t->line_begun) {
        bool drop = t->drop_usage && is_usage_event(t);

        t->events += t->has_data;
        event_note(t);
        if (drop)
            piece_drop(p, t, to);
        else
            piece_pass(p, t, to);
        t->drop_lf = drop && t->after_cr;
        event_reset(t);
    } else if (t->line == LINE_DATA) {
        scan_feed(&t->scan, &t->usage, "\n", 1);
    }
    if (t->is_decided || is_comment)
        piece_pass(p, t, to);
    t->line = LINE_BEGIN;
    t->line_begun = false;
}

static const char *line_find_end(const char *s, size_t n)
{
    const char *lf = memchr(s, '\n', n);
    const char *cr = memchr(s, '\r', lf != NULL ? (size_t)(lf - s) : n);

    return cr != NULL ? cr : lf;
}

/* After the first token nearly all events are whole in one piece and tell nothing new: then the
 * place behind the event that begins at `from`, else 0. Reading each took half of a stream's
 * instructions. */
static size_t event_skip(const struct tap *t, const char *in, size_t from, size_t n)
{
    static const char begin[] = "data: {";
    const size_t head = sizeof(begin) - 1;
    const char *lf;

    if (!t->seen_token || t->line_begun || t->has_data || t->held.len > 0 || n - from <= head ||
        memcmp(in + from, begin, head) != 0)
        return 0;
    lf = memchr(in + from + head, '\n', n - from - head);
    if (lf == NULL || (size_t)(lf + 1 - in) >= n || lf[1] != '\n' ||
        scan_may_tell(in + from + head, (size_t)(lf - in) - from - head))
        return 0;
    return (size_t)(lf + 2 - in);
}

static void feed_events(struct tap *t, struct piece *p, size_t n)
{
    size_t i = 0;

    if (n > 0 && t->after_cr && p->in[0] == '\n') {
        i = 1; /* the second half of a line end */
        if (t->drop_lf)
            piece_drop(p, t, 1);
        else if (t->held.len == 0)
            piece_pass(p, t, 1);
    }
    if (n > 0)
        t->after_cr = t->drop_lf = false;
    while (i < n) {
        size_t next = event_skip(t, p->in, i, n);
        const char *end;
        size_t at;

        if (next > 0) {
            t->events++;
            i = next;
            piece_pass(p, t, i);
            continue;
        }
        end = line_find_end(p->in + i, n - i);
        at = end != NULL ? (size_t)(end - p->in) : n;
        line_look(t, p->in + i, at - i);
        if (end == NULL)
            break;
        i = at + 1;
        if (*end == '\r' && i < n && p->in[i] == '\n')
            i++;
        t->after_cr = *end == '\r' && i == n && i == at + 1;
        line_end(t, p, i);
    }
    event_note(t);
    if (!t->drop_usage || t->is_decided)
        piece_pass(p, t, n);
    else
        piece_hold(p, t, n);
}

void tap_feed(struct tap *t, const char *in, size_t n, struct buf *out, bool *rewritten)
{
    struct piece p = {.in = in, .out = out};

    if (t->is_sse) {
        feed_events(t, &p, n);
    } else {
        scan_feed(&t->scan, &t->usage, in, n);
        event_note(t);
        t->seen_token |= n > 0;
        t->seen_done |= t->scan.is_finished;
    }
    *rewritten = p.rewritten;
}

void tap_end(struct tap *t, struct buf *out)
{
    if (!t->is_sse)
        return;
    event_note(t);
    t->seen_done |= t->done == DONE_LEN;
    t->events += t->has_data;
    /* Not ended by an empty line, but some clients would take it all the same. */
    if (!(t->drop_usage && is_usage_event(t)))
        buf_add(out, t->held.base, t->held.len);
    buf_clear(&t->held);
    event_reset(t);
}
