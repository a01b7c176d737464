-- Makes wrk (4.0 to 4.2) send given requests in order and print what it saw as JSON. drivers.py puts these in front:
-- requests, CONNECTIONS, THREADS, QUANTILES, RESULT_MARK.

local ffi = require("ffi")
ffi.cdef("typedef struct { uint64_t count, limit, min, max, data[]; } stats;")

local position, threads, cpu_s = 0, 0, 0

function setup(thread)
  thread:set("offset", math.floor(threads * #requests / THREADS))
  threads = threads + 1
  cpu_s = os.clock()
end

function init()
  position = offset
end

function request()
  position = position % #requests + 1
  return requests[position]
end

-- wrk adds latencies that it did not measure wherever one was more than twice the mean ("stats_correct"): it takes all
-- requests for equally slow, which those of a mix are not. This takes them out again, from the slowest down.
local function uncorrect(summary, latency)
  local stats = ffi.cast("stats **", latency)[0]
  if tonumber(stats.min) ~= latency.min or tonumber(stats.max) ~= latency.max then
    error("the statistics of this wrk are not those of 4.0 to 4.2")
  end
  local expected = math.floor(summary.duration / math.floor(summary.requests / CONNECTIONS))
  for slow = latency.max, expected * 2, -1 do
    local count = stats.data[slow]
    if count > 0 then
      for added = slow - expected, expected + 1, -expected do
        stats.data[added] = stats.data[added] - count
        stats.count = stats.count - count
      end
    end
  end
  if tonumber(stats.count) ~= summary.requests - summary.errors.timeout then
    error("the latencies of this wrk are not those that it measured")
  end
end

function done(summary, latency)
  cpu_s = os.clock() - cpu_s
  if summary.requests >= CONNECTIONS and summary.requests > summary.errors.timeout then
    uncorrect(summary, latency)
  end
  local values = {}
  for i, quantile in ipairs(QUANTILES) do
    -- percentile(100) is 0 in wrk.
    values[i] = quantile == 1 and latency.max or latency:percentile(quantile * 100)
  end
  local errors = summary.errors
  io.write(string.format(
    RESULT_MARK .. '{"requests":%d,"duration_us":%d,"cpu_s":%.6f,"latencies_us":[%s],' ..
    '"errors":{"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d}}\n',
    summary.requests, summary.duration, cpu_s, table.concat(values, ","),
    errors.connect, errors.read, errors.write, errors.status, errors.timeout))
end
