//! A quote's signature chain and collateral: a verified quote, or why not.
