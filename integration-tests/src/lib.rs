//! Scenarios across services, told as stories.
