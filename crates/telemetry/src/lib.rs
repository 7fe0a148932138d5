//! Traces, metrics and logs: set-up, context propagation, and every name in one place.
