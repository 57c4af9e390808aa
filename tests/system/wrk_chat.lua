-- SPDX-License-Identifier: Apache-2.0
-- A 2 KB chat of one of 16 workflows; counts answers that are not 200.
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
local filler = string.rep("lorem ipsum ", 160)
local n = 0
function request()
    n = n + 1
    wrk.headers["X-Workflow-ID"] = "wrk-" .. n % 16
    return wrk.format(nil, nil, nil, '{"model":"' .. (os.getenv("WRK_MODEL") or "raw")
        .. '","messages":[{"role":"user","content":"' .. filler .. '"}],"max_tokens":2}')
end
