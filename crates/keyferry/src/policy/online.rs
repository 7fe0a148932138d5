//! Policies as `key-release` keeps them: stored, with versions, history and rollback.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;
use keyferry_contract::TOKEN_BYTES_MAX;
use keyferry_contract::release::v1::{
    ClaimResult, CreatePolicyRequest, DeletePolicyRequest, ExplainPolicyRequest, ExplainPolicyResponse, GetPolicyRequest,
    GetPolicyResponse, ListPoliciesRequest, ListPolicyVersionsRequest, RollbackPolicyRequest, UpdatePolicyRequest, UpdatePolicyResponse,
};
use keyferry_key_transfer_policy::DOCUMENT_BYTES_MAX;
use serde_json::{Value, json};

use super::{offline::text, verdict};
use crate::{
    broker::{Broker, Connection, done, online},
    output::{self, CommandResult, Failure},
};

/// A page stays below gRPC's 4 MiB even if each document is as long as it may be.
const PAGE_SIZE: u32 = 50;

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// The policy document, JSON.
    #[arg(value_name = "FILE")]
    policy: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Args)]
pub(crate) struct Show {
    #[arg(value_name = "POLICY_ID")]
    policy_id: String,
    /// An older version; without it, the current one.
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    version: u32,
    /// Print one JSON object with id, version, time and actor beside the document.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// Print a JSON array.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Args)]
pub(crate) struct Update {
    #[arg(value_name = "POLICY_ID")]
    policy_id: String,
    /// The new document, JSON.
    #[arg(value_name = "FILE")]
    policy: PathBuf,
    /// The version this change was made from: if another is current by now, nothing changes.
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    replaces: u32,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Args)]
pub(crate) struct One {
    #[arg(value_name = "POLICY_ID")]
    policy_id: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Args)]
pub(crate) struct Rollback {
    #[arg(value_name = "POLICY_ID")]
    policy_id: String,
    /// The version whose document is to count again.
    #[arg(value_name = "VERSION", value_parser = clap::value_parser!(u32).range(1..))]
    version: u32,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("against").required(true))]
pub(crate) struct Explain {
    /// The attestation token, a compact JWS.
    #[arg(long, value_name = "FILE")]
    token: PathBuf,
    /// Against the policy of this key.
    #[arg(long, value_name = "ID", group = "against")]
    key_id: Option<String>,
    /// Against this stored policy.
    #[arg(long, value_name = "ID", group = "against")]
    policy_id: Option<String>,
    /// An older version of it; without it, the current one.
    #[arg(long, value_name = "N", requires = "policy_id", default_value_t = 0, hide_default_value = true)]
    version: u32,
    /// Against a policy that is not stored: a document, JSON.
    #[arg(long, value_name = "FILE", group = "against")]
    policy: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

impl Create {
    pub(super) fn run(&self) -> CommandResult {
        let document = text(&self.policy, DOCUMENT_BYTES_MAX)?;
        online(&self.connection, async |broker| {
            let created = broker.answer(broker.keys().create_policy(CreatePolicyRequest { document }).await)?;
            if self.json {
                return done(json!({ "policy_id": created.policy_id, "version": created.version, "warnings": created.warnings }));
            }
            warn(&created.warnings);
            done(created.policy_id)
        })
    }
}

impl Show {
    pub(super) fn run(&self) -> CommandResult {
        online(&self.connection, async |broker| {
            let found = stored(&broker, &self.policy_id, self.version).await?;
            if self.json {
                return done(described(&found));
            }
            let made = output::time(found.created_at).unwrap_or_default();
            output::talk(format!("version {}, made {made} by {}", found.version, output::printable(&found.actor)));
            done(&found.document)
        })
    }
}

/// A stored version; 0 is the current one.
pub(super) async fn stored(broker: &Broker, policy_id: &str, version: u32) -> Result<GetPolicyResponse, Failure> {
    broker.answer(broker.keys().get_policy(GetPolicyRequest { policy_id: policy_id.to_owned(), version }).await)
}

impl List {
    pub(super) fn run(&self) -> CommandResult {
        online(&self.connection, async |broker| {
            let mut client = broker.keys();
            let (mut policies, mut after) = (Vec::new(), String::new());
            loop {
                let page = broker.answer(client.list_policies(ListPoliciesRequest { after, page_size: PAGE_SIZE }).await)?;
                policies.extend(page.policies);
                if page.next.is_empty() {
                    break;
                }
                after = page.next;
            }
            let rows: Vec<[String; 4]> = policies
                .iter()
                .map(|policy| {
                    let made = output::time(policy.created_at).unwrap_or_default();
                    [policy.policy_id.clone(), policy.version.to_string(), made, policy.actor.clone()]
                })
                .collect();
            output::list(["POLICY", "VERSION", "MADE", "BY"], &rows, policies.iter().map(described).collect(), self.json)?;
            Ok(ExitCode::SUCCESS)
        })
    }
}

impl Update {
    pub(super) fn run(&self) -> CommandResult {
        let document = text(&self.policy, DOCUMENT_BYTES_MAX)?;
        online(&self.connection, async |broker| {
            let request = UpdatePolicyRequest { policy_id: self.policy_id.clone(), document, replaces: self.replaces };
            changed(&broker.answer(broker.keys().update_policy(request).await)?, self.json)
        })
    }
}

impl Rollback {
    pub(super) fn run(&self) -> CommandResult {
        online(&self.connection, async |broker| {
            let request = RollbackPolicyRequest { policy_id: self.policy_id.clone(), version: self.version };
            changed(&broker.answer(broker.keys().rollback_policy(request).await)?, self.json)
        })
    }
}

impl One {
    pub(super) fn history(&self) -> CommandResult {
        online(&self.connection, async |broker| {
            let request = ListPolicyVersionsRequest { policy_id: self.policy_id.clone() };
            let versions = broker.answer(broker.keys().list_policy_versions(request).await)?.versions;
            let back_to = |version: u32| (version != 0).then_some(version);
            let values = versions.iter().map(|version| {
                json!({
                    "version": version.version,
                    "created_at": output::time(version.created_at),
                    "actor": version.actor,
                    "document_digest": version.document_digest,
                    "rolled_back_to": back_to(version.rolled_back_to),
                })
            });
            let values = values.collect();
            let rows: Vec<[String; 5]> = versions
                .iter()
                .map(|version| {
                    let made = output::time(version.created_at).unwrap_or_default();
                    let again = back_to(version.rolled_back_to).map_or_else(|| "-".to_owned(), |version| version.to_string());
                    [version.version.to_string(), made, version.actor.clone(), again, version.document_digest.clone()]
                })
                .collect();
            output::list(["VERSION", "MADE", "BY", "AGAIN", "SHA-256"], &rows, values, self.json)?;
            Ok(ExitCode::SUCCESS)
        })
    }

    pub(super) fn delete(&self) -> CommandResult {
        online(&self.connection, async |broker| {
            broker.answer(broker.keys().delete_policy(DeletePolicyRequest { policy_id: self.policy_id.clone() }).await)?;
            output::deleted("policy", &self.policy_id, self.json)
        })
    }
}

impl Explain {
    /// Exit code 0 if the key would be released, 1 if not.
    pub(super) fn run(&self) -> CommandResult {
        let token = text(&self.token, TOKEN_BYTES_MAX)?.trim().to_owned();
        let document = self.policy.as_deref().map(|file| text(file, DOCUMENT_BYTES_MAX)).transpose()?.unwrap_or_default();
        let request = ExplainPolicyRequest {
            key_id: self.key_id.clone().unwrap_or_default(),
            policy_id: self.policy_id.clone().unwrap_or_default(),
            policy_version: self.version,
            document,
            token,
        };
        online(&self.connection, async |broker| explain(&broker, request, self.json).await)
    }
}

async fn explain(broker: &Broker, request: ExplainPolicyRequest, json: bool) -> CommandResult {
    let answer = broker.answer(broker.decisions().explain_policy(request).await)?;
    if json {
        output::data(explained(&answer))?;
    } else {
        let rows: Vec<[String; 4]> = answer.claims.iter().map(row).collect();
        output::data(output::table(["", "CLAIM", "WANTED", "GOT"], &rows))?;
        let advice = answer.reason().advice();
        let verdict = if answer.permitted { "permitted".to_owned() } else { format!("refused: {}: {}", advice.label, advice.text) };
        output::talk(verdict);
    }
    Ok(verdict(answer.permitted))
}

fn row(claim: &ClaimResult) -> [String; 4] {
    [if claim.matched { "ok" } else { "NO" }.to_owned(), claim.claim.clone(), claim.wanted.clone(), claim.got.clone()]
}

fn explained(answer: &ExplainPolicyResponse) -> Value {
    let claims: Vec<Value> = answer
        .claims
        .iter()
        .map(|claim| json!({ "claim": claim.claim, "wanted": claim.wanted, "got": claim.got, "matched": claim.matched }))
        .collect();
    json!({
        "permitted": answer.permitted,
        "reason": (!answer.permitted).then(|| answer.reason().label()),
        "policy_id": (!answer.policy_id.is_empty()).then_some(&answer.policy_id),
        "policy_version": (answer.policy_version != 0).then_some(answer.policy_version),
        "claims": claims,
    })
}

fn changed(answer: &UpdatePolicyResponse, json: bool) -> CommandResult {
    if json {
        return done(json!({ "version": answer.version, "warnings": answer.warnings }));
    }
    warn(&answer.warnings);
    done(answer.version)
}

fn warn(warnings: &[String]) {
    for warning in warnings {
        output::talk(format!("warning: {}", output::printable(warning)));
    }
}

fn described(policy: &GetPolicyResponse) -> Value {
    let document: Value = serde_json::from_str(&policy.document).unwrap_or_else(|_| policy.document.clone().into());
    json!({
        "policy_id": policy.policy_id,
        "version": policy.version,
        "created_at": output::time(policy.created_at),
        "actor": policy.actor,
        "document": document,
    })
}
