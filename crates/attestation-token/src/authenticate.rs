//! Believing: a compact JWS, the believed keys and the time go in; an [`AuthenticToken`] or a reason comes out.

use std::fmt;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::Validation;
use keyferry_identifiers::{AttestationId, TdId};
use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};
use zeroize::Zeroizing;

use crate::{
    CLOCK_SKEW_SECONDS, TOKEN_CHARACTERS_MAX, UNKNOWN_TRUST_ANCHOR,
    algorithm::Algorithm,
    claims::{Claims, Nonce},
    denial::{TokenDenial, shown},
    jwks::{KeySet, VerificationKey},
    names_trust_anchor,
    read::Statement,
    wire::Common,
};

/// Characters of a `jti`.
const TOKEN_ID_CHARACTERS_MAX: usize = 128;

/// What an unverified token says of itself: good for choosing a key set, proof of nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unverified {
    /// The payload's `iss`.
    pub issuer: String,
    /// The header's `kid`.
    pub kid: String,
    /// The header's `alg`; already one that exists here.
    pub algorithm: Algorithm,
}

/// A token whose signature, issuer and times were found good by [`authenticate`]. There is no other way to get one.
pub struct AuthenticToken {
    compact: Zeroizing<String>,
    claims: Claims,
    members: Map<String, Value>,
    held_data: Option<Vec<u8>>,
    texts: Texts,
    nonce: Option<Nonce>,
    token_id: String,
    issuer: String,
    issued_at: u64,
    expires_at: u64,
    trust_anchor: String,
    td_id: Option<TdId>,
    attestation_id: Option<AttestationId>,
}

impl AuthenticToken {
    /// The token as it came: whoever has it may ask for keys, though only the TD can open them.
    pub fn compact(&self) -> &str {
        &self.compact
    }
    /// The claims, whatever shape they travelled in.
    pub fn claims(&self) -> &Claims {
        &self.claims
    }
    /// Every member of the payload, in the flat shape whatever shape it travelled in: what stood inside `tdx` or `sgx`
    /// stands at the top. For rules that look at more than [`Claims`].
    pub fn members(&self) -> &Map<String, Value> {
        &self.members
    }
    /// The user data that the attester had quoted; `None` when there was none, or when it was a JSON object.
    pub fn held_data(&self) -> Option<&[u8]> {
        self.held_data.as_deref()
    }
    /// The text of `attester_runtime_data` as the verifier wrote it: user data that is a JSON object, or on Azure the
    /// paravisor's runtime JSON.
    pub fn runtime_data(&self) -> Option<&str> {
        self.texts.attester_runtime_data.as_deref().map(RawValue::get)
    }
    /// The text of `attester_user_data` as the verifier wrote it: on Azure, user data that is JSON.
    pub fn azure_user_data(&self) -> Option<&str> {
        self.texts.attester_user_data.as_deref().map(RawValue::get)
    }
    /// Whether `user_data` is what the attester had quoted, in whichever claim it came. Verifiers may write JSON in another
    /// form, and the white space around it never travels: it has to mean the same.
    pub fn holds(&self, user_data: &[u8]) -> bool {
        let json = if self.texts.attester_user_data.is_some() { self.azure_user_data() } else { self.runtime_data() };
        match (&self.held_data, json) {
            (Some(held), _) => held == user_data,
            (None, Some(json)) => same_json(json, user_data),
            (None, None) => user_data.is_empty(),
        }
    }
    /// The nonce, in tokens that carry it.
    pub fn nonce(&self) -> Option<&Nonce> {
        self.nonce.as_ref()
    }
    /// The `jti` claim: 1 to 128 printable characters.
    pub fn token_id(&self) -> &str {
        &self.token_id
    }
    /// The configured issuer whose key verified it.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }
    /// The `iat` claim, in unix seconds.
    pub fn issued_at(&self) -> u64 {
        self.issued_at
    }
    /// The `exp` claim, in unix seconds.
    pub fn expires_at(&self) -> u64 {
        self.expires_at
    }
    /// Whose root the evidence's chain ended in: `intel-sgx-root`, `simulator:<64 hex digits>`, or `unknown`.
    pub fn trust_anchor(&self) -> &str {
        &self.trust_anchor
    }
    /// The TD's bus identity, where the verifier names it.
    pub fn td_id(&self) -> Option<&TdId> {
        self.td_id.as_ref()
    }
    /// Which attestation it answers, where the verifier names it.
    pub fn attestation_id(&self) -> Option<&AttestationId> {
        self.attestation_id.as_ref()
    }
}

impl fmt::Debug for AuthenticToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthenticToken")
            .field("token_id", &self.token_id)
            .field("issuer", &self.issuer)
            .field("expires_at", &self.expires_at)
            .field("trust_anchor", &self.trust_anchor)
            .finish_non_exhaustive()
    }
}

/// Claims whose exact text matters: [`Value`] would write their numbers in another form.
#[derive(Deserialize, Default)]
struct Texts {
    attester_runtime_data: Option<Box<RawValue>>,
    attester_user_data: Option<Box<RawValue>>,
}

/// [`Texts`] in either shape.
#[derive(Deserialize)]
struct Payload {
    sgx: Option<Texts>,
    tdx: Option<Texts>,
    attester_runtime_data: Option<Box<RawValue>>,
    attester_user_data: Option<Box<RawValue>>,
}

impl Payload {
    /// From where the other claims are read, too.
    fn texts(self) -> Texts {
        let flat = Texts { attester_runtime_data: self.attester_runtime_data, attester_user_data: self.attester_user_data };
        self.sgx.or(self.tdx).unwrap_or(flat)
    }
}

/// The header members that are read. `crit` would demand what nobody here does.
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct IssuerOnly {
    iss: Option<String>,
}

/// Reads header and issuer without believing them. Refuses what is oversized, malformed, or signed with an algorithm
/// that does not exist here (`none`, HMAC), before any cryptography.
pub fn peek(jwt: &str) -> Result<Unverified, TokenDenial> {
    if jwt.len() > TOKEN_CHARACTERS_MAX {
        return Err(TokenDenial::TooLarge { characters: jwt.len(), max: TOKEN_CHARACTERS_MAX });
    }
    let mut parts = jwt.split('.');
    let (Some(header), Some(payload), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return Err(TokenDenial::Malformed { field: "not three parts joined by dots" });
    };
    let header: Header = part(header, "header")?;
    if header.crit.is_some() {
        return Err(TokenDenial::Malformed { field: "header member crit" });
    }
    let algorithm = Algorithm::from_name(&header.alg)
        .ok_or_else(|| TokenDenial::AlgorithmNotAllowed { found: shown(&header.alg), allowed: list(&Algorithm::ALL) })?;
    let kid = header.kid.ok_or(TokenDenial::Malformed { field: "header member kid" })?;
    let issuer = part::<IssuerOnly>(payload, "payload")?.iss.ok_or(TokenDenial::ClaimMissing { claim: "iss" })?;
    Ok(Unverified { issuer, kid, algorithm })
}

/// Judges a token. `now` in unix seconds. With PS384 this takes some 50 us.
pub fn authenticate(jwt: &str, key_sets: &[KeySet], now: u64) -> Result<AuthenticToken, TokenDenial> {
    let unverified = peek(jwt)?;
    let set = key_sets
        .iter()
        .find(|set| set.issuer() == unverified.issuer)
        .ok_or_else(|| TokenDenial::IssuerUnknown { found: shown(&unverified.issuer) })?;
    if !set.issuer.algorithms.contains(&unverified.algorithm) {
        let allowed = list(&set.issuer.algorithms);
        return Err(TokenDenial::AlgorithmNotAllowed { found: unverified.algorithm.to_string(), allowed });
    }
    let key = set
        .keys
        .get(&unverified.kid)
        .filter(|key| now <= key.not_after)
        .ok_or_else(|| TokenDenial::KeyUnknown { issuer: set.issuer().to_owned(), kid: shown(&unverified.kid) })?;
    if key.algorithm != unverified.algorithm {
        let allowed = key.algorithm.to_string();
        return Err(TokenDenial::AlgorithmNotAllowed { found: unverified.algorithm.to_string(), allowed });
    }
    let payload = verified_payload(jwt, key)?;
    believe(jwt, &payload, set, now)
}

/// The payload of a token whose signature verifies with `key` and `key`'s own algorithm. Times and names are checked
/// afterwards, against the time argument: this library would read a clock.
fn verified_payload(jwt: &str, key: &VerificationKey) -> Result<Box<RawValue>, TokenDenial> {
    let mut validation = Validation::new(key.algorithm.for_verification());
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    let decoded = jsonwebtoken::decode::<Box<RawValue>>(jwt, &key.key, &validation);
    decoded.map(|token| token.claims).map_err(|_| TokenDenial::SignatureInvalid)
}

fn believe(jwt: &str, text: &RawValue, set: &KeySet, now: u64) -> Result<AuthenticToken, TokenDenial> {
    let malformed = |_| TokenDenial::Malformed { field: "payload" };
    let payload: &Value = &serde_json::from_str(text.get()).map_err(malformed)?;
    let common = Common::deserialize(payload).map_err(malformed)?;
    let (issued_at, expires_at) = times(&common, set.issuer.token_age_seconds_max, now)?;
    let issuer = common.iss.ok_or(TokenDenial::ClaimMissing { claim: "iss" })?;
    if issuer != set.issuer() {
        return Err(TokenDenial::IssuerUnknown { found: shown(&issuer) });
    }
    let statement = Statement::read(payload)?;
    Ok(AuthenticToken {
        compact: Zeroizing::new(jwt.to_owned()),
        claims: statement.claims,
        members: statement.members,
        held_data: statement.held_data,
        texts: serde_json::from_str::<Payload>(text.get()).map_err(malformed)?.texts(),
        nonce: statement.nonce,
        token_id: token_id(common.jti)?,
        issuer,
        issued_at,
        expires_at,
        trust_anchor: trust_anchor(common.trust_anchor, set)?,
        td_id: parsed(common.td_id, "keyferry.td_id", TdId::parse)?,
        attestation_id: parsed(common.attestation_id, "keyferry.attestation_id", AttestationId::parse)?,
    })
}

fn times(common: &Common, age_max: u64, now: u64) -> Result<(u64, u64), TokenDenial> {
    let expires_at = common.exp.ok_or(TokenDenial::ClaimMissing { claim: "exp" })?;
    let issued_at = common.iat.ok_or(TokenDenial::ClaimMissing { claim: "iat" })?;
    let stale_at = expires_at.min(issued_at.saturating_add(age_max));
    if now >= stale_at {
        return Err(TokenDenial::Expired { at: stale_at });
    }
    let from = issued_at.max(common.nbf.unwrap_or(0));
    if from > now.saturating_add(CLOCK_SKEW_SECONDS) {
        return Err(TokenDenial::NotYetValid { from });
    }
    Ok((issued_at, expires_at))
}

fn token_id(jti: Option<String>) -> Result<String, TokenDenial> {
    let jti = jti.ok_or(TokenDenial::ClaimMissing { claim: "jti" })?;
    let good = (1..=TOKEN_ID_CHARACTERS_MAX).contains(&jti.len()) && jti.bytes().all(|byte| byte.is_ascii_graphic());
    if good { Ok(jti) } else { Err(TokenDenial::ClaimMalformed { claim: "jti" }) }
}

fn trust_anchor(claim: Option<String>, set: &KeySet) -> Result<String, TokenDenial> {
    let Some(anchor) = claim else { return allowed_anchor(set.issuer.absent_anchor.label().to_owned(), set) };
    if names_trust_anchor(&anchor) {
        allowed_anchor(anchor, set)
    } else {
        Err(TokenDenial::ClaimMalformed { claim: "keyferry.trust_anchor" })
    }
}

/// An issuer speaks only for the roots it was configured for: a simulator's verifier must not speak for Intel's.
fn allowed_anchor(anchor: String, set: &KeySet) -> Result<String, TokenDenial> {
    let Some(allowed) = &set.issuer.trust_anchors else { return Ok(anchor) };
    if anchor == UNKNOWN_TRUST_ANCHOR || allowed.contains(&anchor) {
        Ok(anchor)
    } else {
        Err(TokenDenial::TrustAnchorNotAllowed { issuer: set.issuer().to_owned(), found: anchor })
    }
}

fn parsed<T, E>(text: Option<String>, claim: &'static str, parse: impl Fn(&str) -> Result<T, E>) -> Result<Option<T>, TokenDenial> {
    text.map(|text| parse(&text)).transpose().map_err(|_| TokenDenial::ClaimMalformed { claim })
}

pub(crate) fn part<T: serde::de::DeserializeOwned>(text: &str, field: &'static str) -> Result<T, TokenDenial> {
    let json = BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|_| TokenDenial::Malformed { field })?;
    serde_json::from_slice(&json).map_err(|_| TokenDenial::Malformed { field })
}

fn same_json(text: &str, bytes: &[u8]) -> bool {
    let meant = (serde_json::from_str::<Value>(text), serde_json::from_slice::<Value>(bytes));
    matches!(meant, (Ok(one), Ok(other)) if one == other)
}

fn list(algorithms: &[Algorithm]) -> String {
    algorithms.iter().map(|algorithm| algorithm.name()).collect::<Vec<_>>().join(", ")
}
