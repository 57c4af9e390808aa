/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_LIST_H
#define SLIP_LIST_H

#include <stdbool.h>
#include <stddef.h>

/* Intrusive, circular, doubly linked. A node that is on no list points to itself. */
struct list {
    struct list *next, *prev;
};

#define container_of(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))
#define list_for(pos, head) for (struct list *pos = (head)->next; pos != (head); pos = pos->next)
/* The body may remove pos. */
#define list_for_safe(pos, head)                                                  \
    for (struct list *pos = (head)->next, *pos##_next = pos->next; pos != (head); \
         pos = pos##_next, pos##_next = pos->next)

static inline void list_init(struct list *l)
{
    l->next = l->prev = l;
}

static inline bool list_is_empty(const struct list *l)
{
    return l->next == l;
}

static inline void list_insert(struct list *at, struct list *n) /* before at */
{
    n->prev = at->prev;
    n->next = at;
    at->prev->next = n;
    at->prev = n;
}

static inline void list_push(struct list *head, struct list *n) /* at the tail */
{
    list_insert(head, n);
}

static inline void list_push_front(struct list *head, struct list *n)
{
    list_insert(head->next, n);
}

static inline void list_remove(struct list *n)
{
    n->prev->next = n->next;
    n->next->prev = n->prev;
    list_init(n);
}

static inline struct list *list_first(const struct list *head) /* NULL when empty */
{
    return head->next == head ? NULL : head->next;
}

static inline struct list *
list_take(struct list *head) /* removes and returns the first; NULL when empty */
{
    struct list *n = list_first(head);

    if (n != NULL)
        list_remove(n);
    return n;
}

#endif
