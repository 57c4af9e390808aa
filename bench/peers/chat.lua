-- SPDX-License-Identifier: Apache-2.0
-- A chat request of one of 64 workflows after the other; the body comes from the file in BODY.
local file = assert(io.open(os.getenv("BODY"), "rb"))
local body = file:read("*a")
file:close()

local ready, at = {}, 0

function init(args)
    for i = 1, 64 do
        ready[i] = wrk.format("POST", "/v1/chat/completions", {
            ["Host"] = "bench",
            ["Content-Type"] = "application/json",
            ["X-Workflow-ID"] = string.format("wf-%08d", i),
            ["X-Agent-ID"] = "agent-0",
        }, body)
    end
end

function request()
    at = at % 64 + 1
    return ready[at]
end

function done(summary, latency, requests)
    local e = summary.errors
    io.write(string.format('{"requests":%d,"us":%d,"errors":%d,"p50_us":%.1f,"p99_us":%.1f}\n',
        summary.requests, summary.duration, e.connect + e.read + e.write + e.status + e.timeout,
        latency:percentile(50), latency:percentile(99)))
end
