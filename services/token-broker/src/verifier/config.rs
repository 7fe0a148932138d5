//! Which verifier judges, and how a Trust Authority is reached and believed.

use std::path::PathBuf;

use keyferry_attestation_token::{AbsentAnchor, Algorithm, INTEL_TRUST_ANCHOR, Revocation, names_trust_anchor};
use keyferry_lifecycle::{Mistake, Secret};
use keyferry_trust_authority::{Proxy, Region};
use serde::Deserialize;

/// Which verifier judges evidence. Since 0.2.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum VerifierConfig {
    /// The built-in one: quotes are verified here, with the collateral of `evidence`.
    #[default]
    Dcap,
    /// A Trust Authority: Intel's service, or another token-broker. Its tokens are handed on as they are.
    TrustAuthority(Box<TrustAuthorityConfig>),
}

/// The Trust Authority upstream.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustAuthorityConfig {
    /// Intel's service in this region: `world` (also `us`), `eu` or `pilot`. Instead of `api_url` and `base_url`. Since 0.2.
    pub region: Option<Region>,
    /// `https://host[:port]` of the appraisal API. Since 0.2.
    pub api_url: Option<String>,
    /// `https://host[:port]` where `/certs` and the revocation lists are. Since 0.2.
    pub base_url: Option<String>,
    /// The `iss` of its tokens, byte for byte. Default: the base URL. Since 0.2.
    pub issuer: Option<String>,
    /// What it knows us by. Prefer the file. Since 0.2.
    pub api_key: Option<Secret>,
    /// The same in a file, which is read again when it changes. Since 0.2.
    pub api_key_file: Option<PathBuf>,
    /// PEM with exactly one certificate: the pinned root of its token-signing chain. Never taken from its key set. Since 0.2.
    pub root_file: PathBuf,
    /// PEM: whom its TLS certificates must chain to. Since 0.2.
    pub ca_file: PathBuf,
    /// How it is reached, if not directly. Since 0.2.
    pub proxy: Option<Proxy>,
    /// Algorithms it may sign with. Default: PS384. Since 0.2.
    #[serde(default = "algorithms_default")]
    pub algorithms: Vec<Algorithm>,
    /// The roots of evidence it speaks for. Default: `intel-sgx-root`. Since 0.2.
    #[serde(default = "trust_anchors_default")]
    pub trust_anchors: Vec<String>,
    /// What a token means that names no trust anchor. Default: `intel` with `region`, else `unknown`. Since 0.2.
    pub absent_anchor: Option<AbsentAnchor>,
    /// Whether the certificates of its key set are looked up in revocation lists. Default: where they name one. Since 0.2.
    #[serde(default)]
    pub revocation: Revocation,
    /// Whether a quote digest in a token must be that of our quote. What exactly Intel's service hashes is not documented:
    /// where its tokens are refused for this alone, the report data and every measurement still tie them to the quote.
    /// Default: true. Since 0.2.
    #[serde(default = "yes")]
    pub check_quote_digest: bool,
    /// The first pause before a call is repeated, 10 to 10000; the second is twice as long. Intel's clients pause 2 s, but
    /// those who wait for us have less patience. Default: 1000. Since 0.2.
    #[serde(default = "retry_pause_default")]
    pub retry_pause_milliseconds: u64,
}

fn algorithms_default() -> Vec<Algorithm> {
    vec![Algorithm::Ps384]
}
fn trust_anchors_default() -> Vec<String> {
    vec![INTEL_TRUST_ANCHOR.to_owned()]
}
const fn yes() -> bool {
    true
}
const fn retry_pause_default() -> u64 {
    1000
}

impl TrustAuthorityConfig {
    /// The appraisal API, from whichever setting names it.
    pub fn api_url(&self) -> String {
        self.api_url.clone().or_else(|| self.region.map(|region| region.api_url().to_owned())).unwrap_or_default()
    }

    /// Where the key set and the revocation lists are.
    pub fn base_url(&self) -> String {
        let url = self.base_url.clone().or_else(|| self.region.map(|region| region.base_url().to_owned())).unwrap_or_default();
        url.trim_end_matches('/').to_owned()
    }

    /// The `iss` of its tokens.
    pub fn issuer(&self) -> String {
        self.issuer.clone().unwrap_or_else(|| self.base_url())
    }

    /// What a token means that names no trust anchor.
    pub fn absent_anchor(&self) -> AbsentAnchor {
        let by_region = if self.region.is_some() { AbsentAnchor::Intel } else { AbsentAnchor::Unknown };
        self.absent_anchor.unwrap_or(by_region)
    }

    /// The API key from whichever setting has it.
    pub fn api_key(&self) -> Result<Secret, Mistake> {
        Secret::required_from_twins("verifier.api_key", self.api_key.as_ref(), self.api_key_file.as_deref())
    }

    /// What is wrong with these settings.
    pub fn check(&self) -> Vec<Mistake> {
        let mut mistakes: Vec<_> = self.api_key().err().into_iter().collect();
        let mut refuse = |wrong: bool, setting: &str, problem: &str| {
            if wrong {
                mistakes.push(Mistake::new(format!("verifier.{setting}"), problem));
            }
        };
        let urls = [("api_url", &self.api_url, self.api_url()), ("base_url", &self.base_url, self.base_url())];
        for (setting, given, url) in urls {
            let both = self.region.is_some() && given.is_some();
            refuse(both, setting, "is given, and so is verifier.region, which names it: keep one");
            refuse(url.is_empty(), setting, "is missing: set it, or verifier.region");
            refuse(!url.is_empty() && !url.starts_with("https://"), setting, "must begin with https://");
        }
        refuse(self.algorithms.is_empty(), "algorithms", "is empty: no token could be believed");
        let named = |anchor: &String| names_trust_anchor(anchor);
        let bad = self.trust_anchors.is_empty() || !self.trust_anchors.iter().all(named);
        refuse(bad, "trust_anchors", "must name \"intel-sgx-root\" or \"simulator:\" and 64 lower-case hex digits, at least one");
        let speaks_for_intel = self.trust_anchors.iter().any(|anchor| anchor == INTEL_TRUST_ANCHOR);
        let intel_alone = self.absent_anchor() == AbsentAnchor::Intel && !speaks_for_intel;
        refuse(intel_alone, "absent_anchor", "is \"intel\", and verifier.trust_anchors does not name \"intel-sgx-root\"");
        refuse(!(10..=10_000).contains(&self.retry_pause_milliseconds), "retry_pause_milliseconds", "is outside 10 to 10000");
        mistakes
    }
}
