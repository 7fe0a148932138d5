//! Configuration loading, health endpoint, supervised tasks, drain, exit codes, and the only clock.
