//! The configuration of each service in a stack. Port 0 everywhere: the services report what they got.

use std::path::{Path, PathBuf};

use keyferry_td_simulator::TdOptions;
use keyferry_tls::ServerCertificate;
use serde_json::{Value, json};

use super::{
    ModelKind, Simulation, StackDescription, TdDescription,
    start::{ADMINISTRATOR, Site},
};

/// The issuer name of the stack's verifier; it has dots, because Intel's clients refuse single-label hosts.
const ISSUER: &str = "https://token-broker.keyferry.internal";
/// Where token-broker keeps its keys.
const VERIFIER_KEYS: &str = "token-broker-keys";
const ANY_PORT: &str = "127.0.0.1:0";

/// What every service has, and `own` beside it.
fn service(site: &Site<'_>, credentials: &Path, own: Value) -> Value {
    let mut all = json!({
        "runtime": { "health": { "listen": ANY_PORT } },
        "bus": { "url": site.bus_url, "ca_file": site.bus_ca_file, "credentials_file": credentials },
    });
    if let (Some(all), Value::Object(own)) = (all.as_object_mut(), own) {
        all.extend(own);
    }
    all
}

fn listener(certificate: &ServerCertificate) -> Value {
    json!({ "listen": ANY_PORT, "certificate_file": certificate.certificate_file, "key_file": certificate.key_file })
}

pub(super) fn token_broker(site: &Site<'_>, credentials: &Path, simulation: &Simulation, certificate: &ServerCertificate) -> Value {
    let own = json!({
        "token": { "issuer": ISSUER, "key_directory": site.directory.join(VERIFIER_KEYS) },
        "evidence": {
            "trust_anchor": "simulator",
            "simulator_root_file": simulation.root_file(),
            "collateral_files": [simulation.collateral_file()],
        },
        "https": {
            "listen": ANY_PORT,
            "certificate": { "certificate_file": certificate.certificate_file, "key_file": certificate.key_file },
            "api_key_file": site.directory.join("ita-api-key"),
        },
    });
    service(site, credentials, own)
}

pub(super) fn key_release(site: &Site<'_>, credentials: &Path, certificate: &ServerCertificate, kms: &Value, ita_url: &str) -> Value {
    let own = json!({
        "listen": ANY_PORT,
        "tls": { "certificate_file": certificate.certificate_file, "key_file": certificate.key_file },
        "store_key_file": site.directory.join("store-key"),
        "issuers": [{
            "issuer": ISSUER,
            "root_file": verifier_root(site),
            "jwks_url": format!("{ita_url}/certs"),
            "jwks_ca_file": site.ca_file,
            "algorithms": ["PS384"],
            "trust_anchors": [site.trust_anchor],
        }],
        "verifier": { "api_url": ita_url, "ca_file": site.ca_file, "api_key_file": site.directory.join("ita-api-key") },
        "kms": kms,
        "admin": { "username": ADMINISTRATOR, "password_file": site.directory.join("admin-password") },
    });
    service(site, credentials, own)
}

pub(super) fn attester(site: &Site<'_>, credentials: &Path, platform: &Path, socket: &Path) -> Value {
    let own = json!({
        "socket": { "path": socket },
        "platform": { "kind": "simulator", "td_file": platform },
        "verifier": { "issuer": ISSUER, "root_file": verifier_root(site) },
    });
    service(site, credentials, own)
}

/// The root that token-broker made at its first start.
fn verifier_root(site: &Site<'_>) -> PathBuf {
    site.directory.join(VERIFIER_KEYS).join("root.pem")
}

pub(super) fn model_runner(
    site: &Site<'_>,
    td: &TdDescription,
    certificate: &ServerCertificate,
    stack: &StackDescription,
    model: ModelKind,
) -> Value {
    let own = json!({
        "attester": { "socket": td.attester_socket },
        "key_broker": { "url": stack.grpc_url, "ca_file": site.ca_file },
        "model": {
            "file": site.directory.join("model.sealed"),
            "key_id": stack.key_id,
            "name": model.served_as(),
            "media_type": model.media_type(),
        },
        // A laptop's limit for locked memory may be lower than the model; a TD in production keeps the default.
        "memory": { "require_lock": false },
        "https": listener(certificate),
    });
    service(site, &td.credentials, own)
}

/// What the relying party wants of the TD: its image, an up-to-date platform, and the root it names.
pub(super) fn policy(trust_anchor: &str) -> String {
    let td = TdOptions::default();
    json!({
        "attestation_type": "TDX",
        "tdx": { "attributes": {
            "mrtd": [hex::encode(td.mr_td)],
            "rtmr0": hex::encode(td.rtmr0),
            "rtmr1": hex::encode(td.rtmr1),
            "rtmr2": hex::encode(td.rtmr2),
            "enforce_tcb_upto_date": true,
            "trust_anchor": trust_anchor,
        } },
    })
    .to_string()
}
