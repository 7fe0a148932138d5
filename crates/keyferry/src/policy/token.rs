//! A token against a document, on this machine: what `policy explain` asks `key-release`.

use std::path::PathBuf;

use clap::Args;
use keyferry_attestation_token::{
    AbsentAnchor, Algorithm, INTEL_TRUST_ANCHOR, JWKS_BYTES_MAX, KeySet, TOKEN_CHARACTERS_MAX, TrustedIssuer, UnverifiedClaims,
    authenticate, peek,
};
use keyferry_identifiers::KeyId;
use keyferry_key_transfer_policy::{Comparison, explain, explain_claims, explain_for};
use serde_json::{Value, json};

use super::{
    offline::{bytes, comparison, policy, text},
    verdict,
};
use crate::output::{self, CommandResult, Failure};

/// A root certificate is read up to here.
const ROOT_BYTES_MAX: usize = 16 * 1024;

#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub(crate) struct Try {
    /// The policy document, JSON.
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    /// The attestation token, a compact JWS.
    #[arg(long, value_name = "FILE")]
    token: PathBuf,
    /// Read the token without believing it: neither signature nor times are looked at.
    #[arg(long, conflicts_with_all = ["jwks", "root"], required_unless_present = "jwks")]
    unverified: bool,
    /// The issuer's key set; with --root, the token is verified.
    #[arg(long, value_name = "FILE", requires = "root")]
    jwks: Option<PathBuf>,
    /// The one root certificate of the key set to trust, DER.
    #[arg(long, value_name = "FILE.der", requires = "jwks")]
    root: Option<PathBuf>,
    /// A token that names no trust anchor speaks for Intel's SGX root, as tokens of Intel's service do.
    #[arg(long)]
    intel: bool,
    /// The key it is asked for; rules can look at it.
    #[arg(long, value_name = "ID", value_parser = KeyId::parse)]
    key_id: Option<KeyId>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Try {
    pub(super) fn run(&self) -> CommandResult {
        let comparisons = self.comparisons()?;
        let permitted = comparisons.iter().all(|comparison| comparison.matched);
        if self.json {
            let claims: Vec<Value> = comparisons.iter().map(comparison).collect();
            output::data(json!({ "permitted": permitted, "verified": !self.unverified, "claims": claims }))?;
        } else {
            let rows: Vec<[String; 4]> = comparisons.iter().map(row).collect();
            output::data(output::table(["", "CLAIM", "WANTED", "GOT"], &rows))?;
            let trust = if self.unverified { " (nobody vouches for this token)" } else { "" };
            output::talk(format!("{}{trust}", if permitted { "permitted" } else { "refused" }));
        }
        Ok(verdict(permitted))
    }

    fn comparisons(&self) -> Result<Vec<Comparison>, Failure> {
        let policy = policy(&self.policy)?;
        let jwt = text(&self.token, TOKEN_CHARACTERS_MAX)?;
        let jwt = jwt.trim();
        let refused =
            |error: &dyn std::fmt::Display| Failure::usage(format!("{}: {error}", self.token.display())).hint("give a compact JWS");
        let (Some(jwks), Some(root)) = (&self.jwks, &self.root) else {
            let mut claims = UnverifiedClaims::from_token(jwt).map_err(|error| refused(&error))?;
            if self.intel {
                claims = claims.with_absent_anchor(INTEL_TRUST_ANCHOR);
            }
            return Ok(explain_claims(&policy, &claims, self.key_id));
        };
        let issuer = peek(jwt).map_err(|error| refused(&error))?.issuer;
        let mut trusted = TrustedIssuer::new(issuer, bytes(root, ROOT_BYTES_MAX)?, Algorithm::BELIEVED_BY_DEFAULT.to_vec());
        trusted.absent_anchor = if self.intel { AbsentAnchor::Intel } else { AbsentAnchor::Unknown };
        let now = keyferry_lifecycle::clock::now();
        let keys = KeySet::from_jwks(&bytes(jwks, JWKS_BYTES_MAX)?, &trusted, now).map_err(|error| {
            Failure::usage(format!("{}: {error}", jwks.display())).hint("--root is the root that the key set's certificates end in")
        })?;
        let token = authenticate(jwt, &[keys], now).map_err(|error| Failure::failed(format!("the token is not believed: {error}")))?;
        Ok(self.key_id.map_or_else(|| explain(&policy, &token), |key| explain_for(&policy, &token, key)))
    }
}

fn row(comparison: &Comparison) -> [String; 4] {
    let matched = if comparison.matched { "ok" } else { "NO" };
    [matched.to_owned(), comparison.claim.to_owned(), comparison.wanted.clone(), comparison.got.clone()]
}
