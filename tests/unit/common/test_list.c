/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/list.h"

struct item {
    int number;
    struct list link;
};

static int number_of(struct list *n)
{
    return container_of(n, struct item, link)->number;
}

static void a_list_keeps_the_order_of_pushes(void **state)
{
    struct item items[4] = {{.number = 1}, {.number = 2}, {.number = 3}, {.number = 0}};
    struct list head;
    int expected = 0, i;

    (void)state;
    list_init(&head);
    for (i = 0; i < 3; i++)
        list_push(&head, &items[i].link);
    list_push_front(&head, &items[3].link);
    list_for(n, &head)
    {
        assert_int_equal(number_of(n), expected);
        expected++;
    }
    assert_int_equal(expected, 4);
    for (i = 0; i < 4; i++)
        assert_int_equal(number_of(list_take(&head)), i);
    assert_null(list_take(&head));
    assert_null(list_first(&head));
}

static void a_removed_node_is_on_no_list_and_may_be_removed_again(void **state)
{
    struct item a = {.number = 1}, b = {.number = 2};
    struct list head;

    (void)state;
    list_init(&head);
    list_push(&head, &a.link);
    list_push(&head, &b.link);
    list_remove(&a.link);
    assert_true(list_is_empty(&a.link));
    list_remove(&a.link);
    assert_int_equal(number_of(list_first(&head)), 2);
}

static void a_safe_walk_may_remove_what_it_stands_on(void **state)
{
    struct item items[5];
    struct list head;
    int i, left = 0;

    (void)state;
    list_init(&head);
    for (i = 0; i < 5; i++) {
        items[i].number = i;
        list_push(&head, &items[i].link);
    }
    list_for_safe(n, &head)
    {
        if (number_of(n) % 2 == 0)
            list_remove(n);
    }
    list_for(n, &head)
    {
        assert_int_equal(number_of(n) % 2, 1);
        left++;
    }
    assert_int_equal(left, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_list_keeps_the_order_of_pushes),
        cmocka_unit_test(a_removed_node_is_on_no_list_and_may_be_removed_again),
        cmocka_unit_test(a_safe_walk_may_remove_what_it_stands_on),
    };

    return cmocka_run_group_tests_name("list", tests, NULL, NULL);
}
