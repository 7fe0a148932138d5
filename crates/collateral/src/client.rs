//! The client: which addresses are asked for which item, and one document of the answers.

use std::{path::PathBuf, time::Duration};

use keyferry_dcap::TrustAnchor;
use keyferry_tls::RootsConfig;
use serde::Deserialize;
use serde_json::value::RawValue;
use url::Url;

use crate::{
    Document, Family, FetchError, ItemKind, Refused, Update, VerifiedDocument,
    document::Parts,
    encoding,
    http_client::{Answer, HttpClient},
};

/// Intel's Provisioning Certification Service.
pub const INTEL_PCS_URL: &str = "https://api.trustedservices.intel.com";
/// Where Intel publishes the CRL of its root.
pub const INTEL_CERTIFICATES_URL: &str = "https://certificates.trustedservices.intel.com";

/// What configurations of Intel's own libraries have at the end of a service's address.
const API_SUFFIX: &str = "/sgx/certification/v4";
/// The first pause before a repetition; later ones double.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Which service, and how it is reached.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The service.
    pub source: Source,
    /// PEM of the roots its certificate is believed under; `None` = the roots that browsers trust (Mozilla's list, as of
    /// the build). The system's store is never consulted.
    pub ca_file: Option<PathBuf>,
    /// Which TCB evaluation.
    pub update: Update,
    /// The first pause before a repetition.
    pub retry_delay: Duration,
}

impl Settings {
    /// With web roots, `standard` and a second before the first repetition.
    pub const fn new(source: Source) -> Self {
        Self { source, ca_file: None, update: Update::Standard, retry_delay: RETRY_DELAY }
    }
}

/// A service that hands out collateral. Addresses come from configuration only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Intel's Provisioning Certification Service, or something of the same shape.
    Pcs {
        /// Base of the API, for instance [`INTEL_PCS_URL`].
        url: String,
        /// Base of the place with the root's CRL, for instance [`INTEL_CERTIFICATES_URL`].
        certificates_url: String,
    },
    /// A Provisioning Certificate Caching Service: it serves the root's CRL too.
    Pccs {
        /// Its base, with or without `/sgx/certification/v4`.
        url: String,
    },
}

impl Source {
    /// The address that a bundle and messages name.
    pub fn url(&self) -> &str {
        match self {
            Self::Pcs { url, .. } | Self::Pccs { url } => url,
        }
    }
}

/// Fetches collateral from one service.
#[derive(Clone, Debug)]
pub struct CollateralClient {
    http: HttpClient,
    host: String,
    api: Url,
    root_crl: Url,
    update: Update,
}

impl CollateralClient {
    /// Checks addresses and roots; connects to nothing.
    pub fn new(settings: &Settings) -> Result<Self, FetchError> {
        let api = base(settings.source.url())?;
        let root_crl = match &settings.source {
            Source::Pcs { certificates_url, .. } => below(&base(certificates_url)?, "/IntelSGXRootCA.der"),
            Source::Pccs { .. } => below(&api, "/sgx/certification/v4/rootcacrl"),
        };
        let http = HttpClient::new(&roots(settings.ca_file.as_ref()), settings.retry_delay)?;
        Ok(Self { http, host: api.host_str().unwrap_or_default().to_owned(), api, root_crl, update: settings.update })
    }

    /// The collateral of one family as the service has it, and nothing of it checked but that it is one document about
    /// this family.
    pub async fn fetch(&self, family: Family) -> Result<Document, FetchError> {
        let (tcb_info, qe_identity, pck_crl, root_crl) =
            tokio::try_join!(self.tcb_info(family), self.qe_identity(), self.pck_crl(family), self.root_crl())?;
        let parts = Parts {
            pck_crl_issuer_chain: pck_crl.1,
            root_ca_crl: hex::encode(root_crl),
            pck_crl: hex::encode(pck_crl.0),
            tcb_info_issuer_chain: tcb_info.chain,
            tcb_info: tcb_info.text,
            tcb_info_signature: tcb_info.signature,
            qe_identity_issuer_chain: qe_identity.chain,
            qe_identity: qe_identity.text,
            qe_identity_signature: qe_identity.signature,
            pck_certificate_chain: None,
        };
        let document = Document::from_parts(&parts).map_err(|source| FetchError::Document { host: self.host.clone(), source })?;
        let got = document.family();
        if got != family {
            let name = |family: Family| format!("{family} ({})", family.ca.label());
            return Err(FetchError::OtherFamily { host: self.host.clone(), wanted: name(family), got: name(got) });
        }
        Ok(document)
    }

    /// As [`Self::fetch`], and then verified under `anchor` at `now` (Unix seconds).
    pub async fn fetch_verified(&self, family: Family, anchor: &TrustAnchor, now: u64) -> Result<VerifiedDocument, NoCollateral> {
        Ok(self.fetch(family).await?.verify(anchor, now)?)
    }

    async fn tcb_info(&self, family: Family) -> Result<Signed, FetchError> {
        #[derive(Deserialize)]
        struct Body<'a> {
            #[serde(borrow, rename = "tcbInfo")]
            tcb_info: &'a RawValue,
            signature: String,
        }
        let mut url = below(&self.api, "/tdx/certification/v4/tcb");
        url.query_pairs_mut().append_pair("fmspc", &family.to_string()).append_pair("update", self.update.label());
        let answer = self.http.get(ItemKind::TcbInfo, &url).await?;
        let body: Body<'_> = self.json(ItemKind::TcbInfo, &answer)?;
        self.signed(ItemKind::TcbInfo, &answer, &["tcb-info-issuer-chain", "sgx-tcb-info-issuer-chain"], body.tcb_info, body.signature)
    }

    async fn qe_identity(&self) -> Result<Signed, FetchError> {
        #[derive(Deserialize)]
        struct Body<'a> {
            #[serde(borrow, rename = "enclaveIdentity")]
            identity: &'a RawValue,
            signature: String,
        }
        let mut url = below(&self.api, "/tdx/certification/v4/qe/identity");
        url.query_pairs_mut().append_pair("update", self.update.label());
        let answer = self.http.get(ItemKind::QeIdentity, &url).await?;
        let body: Body<'_> = self.json(ItemKind::QeIdentity, &answer)?;
        self.signed(ItemKind::QeIdentity, &answer, &["sgx-enclave-identity-issuer-chain"], body.identity, body.signature)
    }

    async fn pck_crl(&self, family: Family) -> Result<(Vec<u8>, String), FetchError> {
        let mut url = below(&self.api, "/sgx/certification/v4/pckcrl");
        url.query_pairs_mut().append_pair("ca", family.ca.label()).append_pair("encoding", "der");
        let answer = self.http.get(ItemKind::PckCrl, &url).await?;
        let malformed = |detail| self.malformed(ItemKind::PckCrl, detail);
        let chain = encoding::issuer_chain(&answer.headers, &["sgx-pck-crl-issuer-chain"]).map_err(malformed)?;
        Ok((encoding::revocation_list(&answer.body).map_err(malformed)?, chain))
    }

    async fn root_crl(&self) -> Result<Vec<u8>, FetchError> {
        let answer = self.http.get(ItemKind::RootCrl, &self.root_crl).await?;
        encoding::revocation_list(&answer.body).map_err(|detail| self.malformed(ItemKind::RootCrl, detail))
    }

    fn json<'a, T: Deserialize<'a>>(&self, item: ItemKind, answer: &'a Answer) -> Result<T, FetchError> {
        serde_json::from_slice(&answer.body).map_err(|_| self.malformed(item, "not the expected JSON object"))
    }

    fn signed(&self, item: ItemKind, answer: &Answer, names: &[&str], text: &RawValue, signature: String) -> Result<Signed, FetchError> {
        let chain = encoding::issuer_chain(&answer.headers, names).map_err(|detail| self.malformed(item, detail))?;
        Ok(Signed { chain, text: text.get().to_owned(), signature })
    }

    fn malformed(&self, item: ItemKind, detail: &'static str) -> FetchError {
        FetchError::Malformed { host: self.host.clone(), item, detail }
    }
}

/// Why no verified collateral came.
#[derive(Debug, thiserror::Error)]
pub enum NoCollateral {
    /// The service did not give any.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// What it gave is refused.
    #[error(transparent)]
    Refused(#[from] Refused),
}

/// A text that Intel signed, as it was received.
struct Signed {
    chain: String,
    text: String,
    signature: String,
}

fn roots(ca_file: Option<&PathBuf>) -> RootsConfig {
    let web = || webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().map(|root| root.to_vec()).collect();
    ca_file.map_or_else(|| RootsConfig::Ders(web()), |path| RootsConfig::CaFile(path.clone()))
}

fn base(url: &str) -> Result<Url, FetchError> {
    let bad = || FetchError::Url { url: url.to_owned() };
    let trimmed = url.trim_end_matches('/');
    let parsed = Url::parse(trimmed.strip_suffix(API_SUFFIX).unwrap_or(trimmed)).map_err(|_| bad())?;
    let plain = parsed.username().is_empty() && parsed.password().is_none() && parsed.query().is_none() && parsed.fragment().is_none();
    if parsed.scheme() == "https" && parsed.has_host() && plain { Ok(parsed) } else { Err(bad()) }
}

/// `path` below the base, whose own path stays.
fn below(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}{path}", base.path().trim_end_matches('/')));
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_of_the_configuration() {
        for (given, expected) in [
            ("https://pccs.example:8081", "https://pccs.example:8081/x/y"),
            ("https://pccs.example:8081/sgx/certification/v4/", "https://pccs.example:8081/x/y"),
            ("https://cache.example/intel/", "https://cache.example/intel/x/y"),
        ] {
            assert_eq!(below(&base(given).unwrap(), "/x/y").as_str(), expected);
        }
        for bad in ["http://127.0.0.1:1", "pccs.example", "https://", "ftp://x", "https://u:p@x", "https://x?y", "https://x#y"] {
            assert!(matches!(base(bad), Err(FetchError::Url { .. })), "{bad}");
        }
    }

    #[test]
    fn without_a_file_browsers_roots_count() {
        let settings = Settings::new(Source::Pccs { url: "https://pccs.example".to_owned() });
        assert!(CollateralClient::new(&settings).is_ok());
        let missing = Settings { ca_file: Some("/nowhere.pem".into()), ..settings };
        assert!(matches!(CollateralClient::new(&missing), Err(FetchError::Tls(_))));
    }
}
