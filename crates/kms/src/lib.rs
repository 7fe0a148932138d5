//! Key management back ends behind one trait: KMIP and development store, one conformance suite.
