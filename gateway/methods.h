/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GW_METHODS_H
#define GW_METHODS_H

/* Indices of the methods and events in proto/scheduler.proto and proto/mailbox.proto; they are only
 * appended there. */
enum scheduler_method {
    SCHED_PLACE,
    SCHED_REPORT,
    SCHED_RESUME,
    SCHED_LIST_ENGINES,
    SCHED_GET_WORKFLOW,
    SCHED_LIST_WORKFLOWS,
    SCHED_END_WORKFLOW,
    SCHED_GET_STATUS,
    SCHED_LIST_AGENTS,
    SCHED_NOTE_AGENT,
    SCHED_EXPLAIN,
    SCHED_GET_POLICIES,
    SCHED_SET_POLICY
};
enum scheduler_event { SCHED_EVENT_GRANT, SCHED_EVENT_REVOKE, SCHED_EVENT_FLEET };
enum mailbox_method {
    MBOX_SEND,
    MBOX_RECEIVE,
    MBOX_SETTLE,
    MBOX_UNPARK,
    MBOX_GET_BOX,
    MBOX_CLOSE_WORKFLOW,
    MBOX_GET_COUNTS,
    MBOX_GET_STATUS,
    MBOX_ACK,
    MBOX_HOLD,
    MBOX_LIST_DEAD,
    MBOX_REDRIVE
};
enum mailbox_event { MBOX_EVENT_DELIVERY };

#endif
