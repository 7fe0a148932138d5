//! A Trust Authority upstream: it hands out the nonces and judges the evidence; we see to it that what it answers is its
//! own word, and for exactly this evidence, before anybody gets it.
//!
//! A nonce of the upstream is opaque here. Its time bounds its age, so that a redemption outlives it; that it is genuine
//! only the upstream can tell. Attributes that the base policy refuses are refused here too, whatever the upstream thinks of
//! them: Intel's service vouches for debug TDs.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use keyferry_attestation_token::{self as token, Algorithm, AuthenticToken, Shape, TrustedIssuer};
use keyferry_contract::Reason;
use keyferry_dcap::{Allowances, DcapDenial, TcbStatus};
use keyferry_lifecycle::{During, Scope, StartError, clock};
use keyferry_telemetry::{names::JWKS_AGE, propagation::inject_http, spans};
use keyferry_tls::{RootsConfig, read_certificates};
use keyferry_trust_authority::{
    ApiVersion, Evidence as Request, JwksSource, KeySetCache, KeySetSettings, KeySetUnavailable, Settings, TrustAuthority as Client,
    TrustAuthorityError, Unbelieved,
};
use tokio::sync::Semaphore;
use tracing::{Instrument, Span};

use super::{Attested, Verifier, config::TrustAuthorityConfig, proof};
use crate::{
    evidence::Evidence,
    nonce::{Nonce, Recognised},
    refusal::Refusal,
};

/// Whoever asks over the bus waits five seconds.
const NONCE_WITHIN: Duration = Duration::from_millis(4500);
/// Shorter than a request over HTTPS may take.
const ATTEST_WITHIN: Duration = Duration::from_secs(25);
const REFRESH_INTERVAL: Duration = Duration::from_mins(5);
/// While there is no key set.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// A token that is handed on was just made; this is what clocks and the issuer's backdating may add.
const TOKEN_AGE_SECONDS_MAX: u64 = 180;

/// Judges by asking.
pub(crate) struct TrustAuthority {
    client: Client,
    keys: KeySetCache,
    algorithms: Vec<Algorithm>,
    allowances: Allowances,
    check_quote_digest: bool,
    nonce_seconds: u64,
    /// Evidence that may be under way upstream.
    places: Semaphore,
}

impl TrustAuthority {
    /// Reads the files of the configuration; nothing is connected yet. `allowances` are those of the base policy, nonces
    /// are good for `nonce_seconds` at most, and `places` pieces of evidence may be under way at a time.
    pub(crate) fn open(
        config: &TrustAuthorityConfig,
        allowances: Allowances,
        nonce_seconds: u64,
        places: usize,
    ) -> Result<Self, StartError> {
        let key = config.api_key().map_err(|mistake| StartError::message(mistake.to_string()))?;
        let roots = RootsConfig::CaFile(config.ca_file.clone());
        let pause = Duration::from_millis(config.retry_pause_milliseconds);
        let mut settings = Settings::new(config.api_url(), roots.clone(), key.expose().into());
        settings.api_key_file.clone_from(&config.api_key_file);
        settings.retry_delay = pause;
        settings.proxy.clone_from(&config.proxy);
        // The upstream is configured by name and pinned by root: it may know our trace ids.
        settings.decorate = Some(Arc::new(|headers| inject_http(&Span::current(), headers)));
        let client = Client::new(&settings).during("setting up the trust authority's client")?;
        let source = JwksSource::through(&format!("{}/certs", config.base_url()), &roots, pause, config.proxy.as_ref());
        let keys = KeySetCache::new(KeySetSettings {
            trusted: trusted(config)?,
            source: source.during("setting up the trust authority's key set")?,
            revocation: config.revocation,
            report: Some(Arc::new(warn)),
        });
        Ok(Self {
            client,
            keys,
            algorithms: config.algorithms.clone(),
            allowances,
            check_quote_digest: config.check_quote_digest,
            nonce_seconds,
            places: Semaphore::new(places),
        })
    }

    /// Keeps the key set fresh until the service stops; readiness waits for the first one.
    pub(crate) fn keep_fresh(self: Arc<Self>, scope: &Scope) {
        let check = scope.readiness_check("upstream key set");
        let stop = scope.cancellation();
        scope.spawn("upstream key set", async move {
            let refreshing = async {
                loop {
                    let _reported = self.keys.refresh(clock::now()).await;
                    let age = self.keys.age();
                    match age {
                        Some(age) => {
                            JWKS_AGE.set(age.as_secs_f64(), &[]);
                            check.up();
                        }
                        None => check.down("the trust authority's key set is not there"),
                    }
                    tokio::time::sleep(if age.is_some() { REFRESH_INTERVAL } else { RETRY_INTERVAL }).await;
                }
            };
            tokio::select! {
                () = refreshing => {}
                () = stop.cancelled() => {}
            }
        });
    }

    async fn ask(&self, evidence: &Evidence) -> Result<String, Refusal> {
        let (request, version) = request(evidence);
        let span = spans::http_client("POST", "/appraisal/attest", self.client.host());
        let asked = self.client.attest_as(version, &request).instrument(span);
        let late = |_| Err(TrustAuthorityError::Timeout { host: self.client.host().to_owned() });
        tokio::time::timeout(ATTEST_WITHIN, asked).await.unwrap_or_else(late).map_err(|error| refused(&error))
    }

    /// The token as the upstream's own word for this evidence.
    async fn believed(&self, jwt: &str, evidence: &Evidence) -> Result<AuthenticToken, Refusal> {
        let token = self.keys.authenticate(jwt, clock::now()).await.map_err(|unbelieved| match unbelieved {
            Unbelieved::NoKeySet { .. } => Refusal::new(Reason::JwksUnavailable, unbelieved.to_string()),
            Unbelieved::Denied(denial) => untrue(&denial),
        })?;
        proof::check(evidence, &token, self.check_quote_digest).map_err(|foreign| untrue(&foreign))?;
        Ok(token)
    }
}

#[async_trait]
impl Verifier for TrustAuthority {
    fn name(&self) -> &'static str {
        "trust-authority"
    }

    fn algorithms(&self) -> Vec<Algorithm> {
        self.algorithms.clone()
    }

    async fn nonce(&self) -> Result<(Nonce, u64), Refusal> {
        let span = spans::http_client("GET", self.client.nonce_path(), self.client.host());
        let late = |_| Err(TrustAuthorityError::Timeout { host: self.client.host().to_owned() });
        let asked = tokio::time::timeout(NONCE_WITHIN, self.client.nonce().instrument(span)).await;
        let token::Nonce { val, iat, signature } = asked.unwrap_or_else(late).map_err(|error| refused(&error))?;
        let nonce = Nonce { val, iat, signature };
        let issued = Recognised::by_its_time(&nonce).map_err(|refusal| untrue(&refusal.detail))?;
        Ok((nonce, issued.at().saturating_add(self.nonce_seconds)))
    }

    fn recognise(&self, nonce: &Nonce) -> Result<Recognised, Refusal> {
        Recognised::by_its_time(nonce)
    }

    fn check_age(&self, nonce: &Recognised, now: u64) -> Result<(), Refusal> {
        nonce.check_age(self.nonce_seconds, now)
    }

    async fn attest(&self, evidence: Evidence) -> Result<Attested, Refusal> {
        let body = evidence.quote.body();
        self.allowances.check(body).map_err(DcapDenial::from)?;
        // The upstream checks it too; what cannot pass is not worth a call.
        if evidence.expected_report_data()?.is_some_and(|expected| expected != body.report_data) {
            return Err(Refusal::new(Reason::ReportDataMismatch, "the quote's report data does not bind the nonce and the user data"));
        }
        let place = if evidence.td_id.is_some() { self.places.acquire().await.ok() } else { self.places.try_acquire().ok() };
        let _place = place.ok_or_else(|| Refusal::new(Reason::Overloaded, "too much evidence is under way to the trust authority"))?;
        let jwt = self.ask(&evidence).await?;
        let token = self.believed(&jwt, &evidence).await?;
        policies(&evidence, &token)?;
        attested(jwt, &token)
    }

    async fn jwks(&self) -> Result<String, Refusal> {
        let document = self.keys.document();
        let unavailable = || Refusal::new(Reason::JwksUnavailable, "the trust authority's key set is not there");
        String::from_utf8(document.ok_or_else(unavailable)?.to_vec()).map_err(|_| unavailable())
    }
}

impl std::fmt::Debug for TrustAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("TrustAuthority").field(&self.client).finish()
    }
}

fn trusted(config: &TrustAuthorityConfig) -> Result<TrustedIssuer, StartError> {
    let doing = format!("reading verifier.root_file {}", config.root_file.display());
    let roots = read_certificates(&config.root_file).during(&doing)?;
    let [root] = roots.as_slice() else {
        return Err(StartError::message(format!("{doing}: not exactly one certificate")).hint("pin the trust authority's root only"));
    };
    let mut trusted = TrustedIssuer::new(config.issuer(), root.to_vec(), config.algorithms.clone());
    trusted.absent_anchor = config.absent_anchor();
    trusted.trust_anchors = Some(config.trust_anchors.clone());
    trusted.token_age_seconds_max = TOKEN_AGE_SECONDS_MAX;
    Ok(trusted)
}

fn warn(issuer: &str, error: &KeySetUnavailable) {
    tracing::warn!(issuer, %error, "the trust authority's key set could not be refreshed");
}

fn request(evidence: &Evidence) -> (Request, ApiVersion) {
    let nonce = evidence.nonce.as_ref();
    let request = Request {
        user_data: evidence.user_data.clone(),
        azure_runtime: evidence.azure_runtime.clone(),
        nonce: nonce.map(|nonce| token::Nonce { val: nonce.val.clone(), iat: nonce.iat.clone(), signature: nonce.signature.clone() }),
        event_log: evidence.event_log.clone(),
        policy_ids: evidence.policy_ids.iter().map(|id| *id.as_uuid()).collect(),
        policy_must_match: evidence.policy_must_match && !evidence.policy_ids.is_empty(),
        token_signing_alg: evidence.algorithm.map(|algorithm| algorithm.name().to_owned()),
        ..Request::of(evidence.quote.without_tail().to_vec())
    };
    let version = match evidence.shape {
        Shape::V1Flat => ApiVersion::V1,
        Shape::V2Nested => ApiVersion::V2,
    };
    (request, version)
}

/// What the upstream was told has to match must have matched by its own word.
fn policies(evidence: &Evidence, token: &AuthenticToken) -> Result<(), Refusal> {
    if !evidence.policy_must_match {
        return Ok(());
    }
    let matched = token.claims().policy_ids_matched.as_deref().unwrap_or_default();
    match evidence.policy_ids.iter().find(|id| !matched.contains(id.as_uuid())) {
        None => Ok(()),
        Some(id) => Err(Refusal::new(Reason::PolicyMismatch, format!("the trust authority does not say that policy {id} matched"))),
    }
}

fn attested(jwt: String, token: &AuthenticToken) -> Result<Attested, Refusal> {
    let told = token.claims().tcb_status.as_deref().unwrap_or_default();
    let status = TcbStatus::ALL.into_iter().find(|status| status.name() == told);
    let status = status.ok_or_else(|| Refusal::new(Reason::TcbUnknown, "the trust authority names no TCB status that is known"))?;
    if status == TcbStatus::Revoked {
        return Err(DcapDenial::TcbRevoked { advisory_ids: token.claims().advisory_ids.clone() }.into());
    }
    Ok(Attested {
        jwt,
        token_id: token.token_id().to_owned(),
        expires_at: token.expires_at(),
        tcb_status: status.name(),
        trust_anchor: token.trust_anchor().to_owned(),
        mr_td: token.claims().mr_td.clone().unwrap_or_default(),
        platform_hash: String::new(),
        exceptions: Vec::new(),
    })
}

/// The upstream answered, and not with the truth about this evidence. Nothing is decided about the TD; an operator has to
/// look.
fn untrue(cause: &dyn std::fmt::Display) -> Refusal {
    tracing::error!(%cause, "THE TRUST AUTHORITY'S ANSWER IS NOT BELIEVED");
    Refusal::new(Reason::VerifierUnavailable, format!("the trust authority's answer is not believed: {cause}"))
}

/// A token-broker names its reason, and so do the words of Intel's refusals. Whatever is about us and not about the evidence
/// is an outage: our key, our rate, an address that does not exist.
fn refused(error: &TrustAuthorityError) -> Refusal {
    let detail = error.to_string();
    let reason = match error {
        TrustAuthorityError::Status { status: 401 | 403, .. } => {
            tracing::error!(detail, "THE TRUST AUTHORITY REFUSES OUR API KEY: nobody can attest until verifier.api_key is right");
            Reason::VerifierUnavailable
        }
        TrustAuthorityError::RequestTooLarge { .. } | TrustAuthorityError::Status { status: 413, .. } => Reason::RequestTooLarge,
        TrustAuthorityError::Status { status: 429, .. } => Reason::Overloaded,
        TrustAuthorityError::Status { status, reason, .. } => by_label(*status, reason.as_deref()),
        _ => Reason::VerifierUnavailable,
    };
    Refusal::new(reason, detail)
}

fn by_label(status: u16, label: Option<&str>) -> Reason {
    let named = label.and_then(Reason::from_label);
    match named {
        Some(Reason::Overloaded | Reason::RateLimited) => Reason::Overloaded,
        Some(reason) if !Refusal::new(reason, "").is_outage() => reason,
        None if status == 400 => Reason::RequestMalformed,
        _ => Reason::VerifierUnavailable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_about_us_is_an_outage_and_one_about_the_evidence_a_denial() {
        let of = |status, reason: Option<&str>| {
            let reason = reason.map(str::to_owned);
            refused(&TrustAuthorityError::Status { host: String::new(), status, reason, trace_id: None })
        };
        for (status, label, reason) in [
            (400, Some("nonce_expired"), Reason::NonceExpired),
            (400, Some("debug_enabled"), Reason::DebugEnabled),
            (400, Some("invented"), Reason::RequestMalformed),
            (400, None, Reason::RequestMalformed),
            (413, None, Reason::RequestTooLarge),
            (503, Some("collateral_expired"), Reason::CollateralExpired),
        ] {
            let refusal = of(status, label);
            assert_eq!((refusal.reason, refusal.is_outage()), (reason, false), "{status} {label:?}");
        }
        for (status, label, reason) in [
            (401, Some("unauthenticated"), Reason::VerifierUnavailable),
            (403, Some("quote_malformed"), Reason::VerifierUnavailable),
            (404, None, Reason::VerifierUnavailable),
            (415, None, Reason::VerifierUnavailable),
            (429, None, Reason::Overloaded),
            (429, Some("rate_limited"), Reason::Overloaded),
            (503, Some("overloaded"), Reason::Overloaded),
            (503, Some("audit_unavailable"), Reason::VerifierUnavailable),
            (500, None, Reason::VerifierUnavailable),
            (201, None, Reason::VerifierUnavailable),
        ] {
            let refusal = of(status, label);
            assert_eq!((refusal.reason, refusal.is_outage()), (reason, true), "{status} {label:?}");
        }
    }
}
