/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SCHED_POLICY_SPEC_H
#define SCHED_POLICY_SPEC_H

#include "common/policy_spec.h"

#endif
