#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Two agents of one workflow with curl alone: the writer works on the message under a lease, and
# acknowledges it with its receipt when it is done.
#
#     BASE_URL=http://127.0.0.1:8080 sh curl.sh
set -eu
BASE_URL=${BASE_URL:-http://127.0.0.1:8080}
MODEL=${MODEL:-$(curl -sSf "$BASE_URL/v1/models" | sed 's/.*"data":\[{"id":"\([^"]*\)".*/\1/')}
WORKFLOW=${WORKFLOW:-trip-$$}

# chat AGENT QUESTION
chat() {
    curl -sSf "$BASE_URL/v1/chat/completions" -H 'Content-Type: application/json' \
        -H "Authorization: Bearer ${API_KEY:-none}" -H "X-Workflow-ID: $WORKFLOW" -H "X-Agent-ID: $1" \
        -d "{\"model\":\"$MODEL\",\"max_tokens\":32,\"messages\":[{\"role\":\"system\",\"content\":\"We plan a trip to the moon.\"},
             {\"role\":\"user\",\"content\":\"$2\"}]}"
}

# call PATH [BODY]: the workflow's own interface
call() {
    path=$1
    shift
    curl -sSf "$BASE_URL/v1/workflows/$WORKFLOW$path" -H 'Content-Type: application/json' \
        -H "Authorization: Bearer ${API_KEY:-none}" ${1:+-d "$1"}
}

# field NAME: of the JSON on standard input
field() {
    sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p"
}

chat planner 'Make a plan.' >&2
call /messages '{"source_agent":"planner","target_agent":"writer","message_type":"plan","payload":{"chapters":3}}' >&2
message=$(call '/agents/writer/messages?wait=10&lease=60&max=1')
echo "$message" >&2
chat writer 'Write the first of three chapters.' >&2
call "/agents/writer/messages/$(echo "$message" | field message_id):ack" "{\"receipt\":\"$(echo "$message" | field receipt)\"}" >&2
call /status
