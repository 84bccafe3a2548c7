-- wrk's script: posts the bodies of a file (one per line), over and over, and ends with one line of JSON.
-- Environment: BENCH_BODIES, BENCH_KEY, BENCH_TYPE (content type), BENCH_RATE (calls a second; empty: as fast as can be).
local ffi = require("ffi")
ffi.cdef [[ typedef struct { long s, ns; } khata_time; int clock_gettime(int clock, khata_time *now); ]]
local MONOTONIC, clock = 1, ffi.new("khata_time")
local bodies, rate, at, due = {}, tonumber(os.getenv("BENCH_RATE") or ""), 0, 0

function init(_)
  local headers = { ["Authorization"] = "Bearer " .. os.getenv("BENCH_KEY"), ["Content-Type"] = os.getenv("BENCH_TYPE") }
  for line in io.lines(os.getenv("BENCH_BODIES")) do
    bodies[#bodies + 1] = wrk.format("POST", "/v1/events", headers, line)
  end
end

function request()
  at = at % #bodies + 1
  return bodies[at]
end

if rate then
  -- One plan for all connections: a slow answer delays nobody's turn, so its wait is seen.
  function delay()
    ffi.C.clock_gettime(MONOTONIC, clock)
    local now = tonumber(clock.s) * 1000 + tonumber(clock.ns) / 1e6
    due = math.max(due + 1000 / rate, now)
    return due - now
  end
end

function done(summary, latency, _)
  local errors = summary.errors
  io.write(string.format(
    '\n{"calls":%d,"seconds":%.6f,"not_2xx":%d,"broken":%d,"p50_ms":%.3f,"p99_ms":%.3f}\n',
    summary.requests, summary.duration / 1e6, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000))
end
