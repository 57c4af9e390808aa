-- SPDX-License-Identifier: Apache-2.0
-- Mailboxes of 64 workflows, one after the other. WORK is send (a message of 1 KB, payload in the file PAYLOAD) or receive.
local ready, at = {}, 0

function init(args)
    local payload
    if os.getenv("WORK") == "send" then
        local file = assert(io.open(os.getenv("PAYLOAD"), "rb"))
        payload = file:read("*a")
        file:close()
    end
    for i = 1, 64 do
        local path = string.format("/v1/workflows/wf-%08d", i)
        if payload then
            ready[i] = wrk.format("POST", path .. "/messages",
                { ["Host"] = "bench", ["Content-Type"] = "application/json" },
                '{"source_agent":"agent-1","target_agent":"agent-0","message_type":"task","payload":' .. payload .. "}")
        else
            ready[i] = wrk.format("GET", path .. "/agents/agent-0/messages?max=1", { ["Host"] = "bench" })
        end
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
