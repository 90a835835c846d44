"""Whether an upstream may be called now, and what follows a failed call.

circuit_breaker       Every upstream call passes here: breaker, then limits, throttle, retry budget
circuits              What fails together; what is reported of a failure; why a call is blocked
failure_causes        The table of failures: whose fault, what it closes, whether the message waits
retry_policy          What follows a failed call: call again, wait in the queue, fail over, or end
retry_budget          A token bucket that bounds retries by provider
throttles             Which circuits accept fewer calls than are made
remaining_calls       How many calls a provider's headers leave, and how far they are believed
rate_limiter          Takes room in a provider's limits for calls and permits, and returns it
provider_rate_limits  A provider's limits per minute as intervals for Redis
permits               Room at providers, taken before the turn that uses it is claimed
"""
