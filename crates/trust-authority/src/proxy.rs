//! A proxy on the way to the service: it carries TLS without seeing into it.

use serde::Deserialize;

use crate::TrustAuthorityError;

/// An HTTP proxy that is asked to CONNECT.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proxy {
    /// `http://[user:password@]host:port`.
    pub url: String,
    /// Hosts that are reached directly: names, domains, addresses and networks, separated by commas.
    #[serde(default)]
    pub except: String,
}

/// The address may hold a password.
impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxy").field("except", &self.except).finish_non_exhaustive()
    }
}

impl Proxy {
    pub(crate) fn through(&self) -> Result<reqwest::Proxy, TrustAuthorityError> {
        // A bare host:port is what many an environment holds.
        let url = if self.url.contains("://") { self.url.clone() } else { format!("http://{}", self.url) };
        let proxy = reqwest::Proxy::https(url).map_err(|_| TrustAuthorityError::Client)?;
        Ok(proxy.no_proxy(reqwest::NoProxy::from_string(&self.except)))
    }
}
