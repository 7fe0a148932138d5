//! `keyferry token`: look into attestation tokens, verify them, and rotate the key that signs them.

use std::{
    io::Read,
    path::{Path, PathBuf},
    process::ExitCode,
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use clap::{Args, Subcommand};
use jiff::Timestamp;
use keyferry_attestation_token::{Algorithm, JWKS_BYTES_MAX, KeySet, TOKEN_CHARACTERS_MAX, TrustedIssuer, authenticate};
use keyferry_verifier_keys::{KeyDirectory, SealKey};
use serde_json::{Value, json};

use crate::{
    output::{self, CommandResult, Failure, NO},
    policy::offline::{bytes, text},
};

/// A root certificate is read up to here.
const ROOT_BYTES_MAX: usize = 16 * 1024;

/// The commands about attestation tokens.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Print header and claims of a token that nobody has verified.
    Inspect(Inspect),
    /// Verify a token under a pinned root: exit code 1 if it is not to be believed.
    Verify(Verify),
    /// Publish the next signing key of a token-broker's key directory.
    RotateKey(RotateKey),
}

#[derive(Debug, Args)]
pub(crate) struct Source {
    /// The token, a compact JWS; `-` reads it from the standard input. A command line would show it to everybody.
    #[arg(long, value_name = "FILE")]
    token: PathBuf,
}

#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub(crate) struct Inspect {
    #[command(flatten)]
    source: Source,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub(crate) struct Verify {
    #[command(flatten)]
    source: Source,
    /// The issuer's key set, as `/certs` serves it.
    #[arg(long, value_name = "FILE")]
    jwks: PathBuf,
    /// The one root certificate of the key set to trust, PEM or DER.
    #[arg(long, value_name = "FILE")]
    root: PathBuf,
    /// The `iss` that the token has to have.
    #[arg(long, value_name = "NAME")]
    issuer: String,
    /// The moment to judge at, RFC 3339; now if it is not given.
    #[arg(long, value_name = "TIME")]
    at: Option<Timestamp>,
    /// The algorithms to believe, by their JWS names.
    #[arg(long, value_delimiter = ',', default_values = ["PS384", "ES384", "ES256"], value_parser = algorithm)]
    algorithms: Vec<Algorithm>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub(crate) struct RotateKey {
    /// The `token.key_directory` of the token-broker.
    #[arg(long, value_name = "DIRECTORY")]
    directory: PathBuf,
    /// Its `token.seal_key_file`, where it has one.
    #[arg(long, value_name = "FILE")]
    seal_key_file: Option<PathBuf>,
    /// How many seconds the key is published before it signs: relying parties fetch the key set within this time.
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    ahead_seconds: u64,
}

fn algorithm(name: &str) -> Result<Algorithm, String> {
    Algorithm::from_name(name).ok_or_else(|| {
        let known = Algorithm::ALL.map(Algorithm::name).join(", ");
        format!("no such algorithm: {known}")
    })
}

/// Runs one of them.
pub(crate) fn run(command: &TokenCommand) -> CommandResult {
    match command {
        TokenCommand::Inspect(inspect) => inspect.run(),
        TokenCommand::Verify(verify) => verify.run(),
        TokenCommand::RotateKey(rotate) => rotate.run(),
    }
}

impl Source {
    fn read(&self) -> Result<String, Failure> {
        let jwt = if self.token == Path::new("-") {
            let mut read = String::new();
            let input = std::io::stdin().lock().take(TOKEN_CHARACTERS_MAX as u64 + 1).read_to_string(&mut read);
            input.map_err(|error| Failure::usage(format!("the standard input: {error}")))?;
            read
        } else {
            text(&self.token, TOKEN_CHARACTERS_MAX)?
        };
        Ok(jwt.trim().to_owned())
    }
}

impl Inspect {
    fn run(&self) -> CommandResult {
        let jwt = self.source.read()?;
        let malformed = || Failure::usage("this is no compact JWS").hint("give three base64url parts with dots between them");
        let mut parts = jwt.split('.');
        let (Some(header), Some(claims), Some(_signature), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err(malformed());
        };
        let decoded = |part: &str| {
            let json = BASE64_URL_SAFE_NO_PAD.decode(part).ok()?;
            serde_json::from_slice::<Value>(&json).ok().filter(Value::is_object)
        };
        let (header, claims) = decoded(header).zip(decoded(claims)).ok_or_else(malformed)?;
        if self.json {
            output::data(json!({ "verified": false, "header": header, "claims": claims }))?;
        } else {
            output::data(format!("{header:#}\n{claims:#}"))?;
            output::talk("nobody has verified this token: `keyferry token verify` does");
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Verify {
    fn run(&self) -> CommandResult {
        let jwt = self.source.read()?;
        let root = der(bytes(&self.root, ROOT_BYTES_MAX)?);
        let trusted = TrustedIssuer::new(self.issuer.as_str(), root, self.algorithms.clone());
        let now = self.at.map_or_else(keyferry_lifecycle::clock::now, |at| u64::try_from(at.as_second()).unwrap_or(0));
        let keys = KeySet::from_jwks(&bytes(&self.jwks, JWKS_BYTES_MAX)?, &trusted, now).map_err(|error| {
            Failure::usage(format!("{}: {error}", self.jwks.display())).hint("--root is the root that the key set's certificates end in")
        })?;
        let judged = authenticate(&jwt, &[keys], now);
        let (code, answer, said) = match &judged {
            Ok(token) => (
                ExitCode::SUCCESS,
                json!({ "verdict": "verified", "token_id": token.token_id(), "issuer": self.issuer }),
                format!("verified: token {}", token.token_id()),
            ),
            Err(denial) => (
                ExitCode::from(NO),
                json!({ "verdict": "refused", "reason": denial.label(), "detail": denial.to_string() }),
                format!("refused: {}: {denial}", denial.label()),
            ),
        };
        if self.json {
            output::data(answer)?;
        } else {
            output::data(said)?;
        }
        Ok(code)
    }
}

/// DER, perhaps out of PEM.
fn der(bytes: Vec<u8>) -> Vec<u8> {
    pem::parse(&bytes).map_or(bytes, pem::Pem::into_contents)
}

impl RotateKey {
    fn run(&self) -> CommandResult {
        let seal = self.seal_key_file.as_deref().map(SealKey::load).transpose();
        let seal = seal.map_err(|error| Failure::usage(error.to_string()))?;
        let directory = KeyDirectory::new(&self.directory, seal);
        let rotation = directory.rotate(self.ahead_seconds, keyferry_lifecycle::clock::now());
        let rotation = rotation.map_err(|error| Failure::failed(error.to_string()))?;
        output::data(json!({ "kid": rotation.kid, "signs_from": rotation.signs_from }))?;
        output::talk("published from now on; running token-brokers take it up within a minute");
        Ok(ExitCode::SUCCESS)
    }
}
