//! Certificates, roots and their reload as rustls configurations.
