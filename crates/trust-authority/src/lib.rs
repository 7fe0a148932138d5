//! Client of the Trust Authority appraisal REST API: Intel's cloud or a token-broker.
