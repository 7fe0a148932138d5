//! Throughput as a fraction of the cryptographic bound measured in the same run, and beside a peer library.
//!
//! Every figure is a contest on one thread: what Keyferry does, the cryptography that cannot be avoided, and a peer, in
//! turns of a few milliseconds, so that a busy machine slows all of them alike. Trust the ratios, not the absolutes.
//! Run it optimised: `cargo xtask bench`.
//!
//! Most figures are work within this process. `release/{grpc,rest,store_*,one_key_*}` put load on a whole installation of
//! separate processes, and `kms/*` on real KMIP and Vault servers. It imports no service.

mod attestation;
mod broker;
mod contest;
mod installation;
mod kms;
mod load;
mod peer;
mod quote_verification;
mod release;
mod row;
mod verifier;
mod world;

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;

use row::Row;

/// Throughput as a fraction of the cryptographic bound.
#[derive(Debug, Parser)]
#[command(name = "keyferry-benches")]
struct Arguments {
    /// Only the figure with this name, e.g. `quote_verification/warm`, or all that begin with it.
    #[arg(long, value_name = "NAME", default_value = "")]
    only: String,
    /// Also write the figures to this file, as a JSON array.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Print the names of all figures and measure none.
    #[arg(long)]
    list: bool,
    /// Seconds for each contestant of a figure.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
}

type Figure = (&'static str, fn(&'static str, Duration) -> Result<Row>);

const FIGURES: [Figure; 22] = [
    ("quote_verification/cold", quote_verification::cold),
    ("quote_verification/first_sight", quote_verification::first_sight),
    ("quote_verification/warm", quote_verification::warm),
    ("quote_verification/memory", quote_verification::memory),
    ("attestation/ps384", attestation::ps384),
    ("attestation/es384", attestation::es384),
    ("attestation/es256", attestation::es256),
    ("token_signing/ps384", attestation::signing_ps384),
    ("token_signing/es384", attestation::signing_es384),
    ("token_signing/es256", attestation::signing_es256),
    ("release/decision", release::decision),
    ("release/grpc", broker::grpc),
    ("release/rest", broker::rest),
    ("release/store_10", broker::store_10),
    ("release/store_100000", broker::store_100000),
    ("release/one_key_500_tds", broker::one_key_500_tds),
    ("kms/kmip_1", kms::kmip_1),
    ("kms/kmip_4", kms::kmip_4),
    ("kms/kmip_16", kms::kmip_16),
    ("kms/vault_1", kms::vault_1),
    ("kms/vault_4", kms::vault_4),
    ("kms/vault_16", kms::vault_16),
];

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!(arguments.seconds.is_finite() && arguments.seconds > 0.0, "--seconds must be above 0");
    let is_one = FIGURES.iter().any(|(name, _)| *name == arguments.only);
    let meant = |name: &str| if is_one { name == arguments.only } else { name.starts_with(arguments.only.as_str()) };
    let wanted: Vec<Figure> = FIGURES.into_iter().filter(|(name, _)| meant(name)).collect();
    ensure!(!wanted.is_empty(), "no figure begins with {:?}; there are {:?}", arguments.only, FIGURES.map(|(name, _)| name));
    let mut out = std::io::stdout().lock();
    if arguments.list {
        return wanted.iter().try_for_each(|(name, _)| Ok(writeln!(out, "{name}")?));
    }
    keyferry_tls::install_provider();
    writeln!(out, "{}", Row::HEADER)?;
    let mut rows = Vec::new();
    for (name, figure) in wanted {
        let row = figure(name, Duration::from_secs_f64(arguments.seconds)).with_context(|| name.to_owned())?;
        writeln!(out, "{}", row.line())?;
        rows.push(row);
    }
    if let Some(file) = &arguments.json {
        std::fs::write(file, serde_json::to_vec_pretty(&rows)?).with_context(|| file.display().to_string())?;
    }
    Ok(())
}
