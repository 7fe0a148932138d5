//! What an import will do: one line for each record, decided before anything is sent.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use serde_json::{Value, json};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{
    Places,
    directory::{self, Found},
    record::{self, KeyRecord, KmsKind, PolicyRecord, Refusal, UserRecord},
};
use crate::output;

/// What kind of record an item is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    SigningKey,
    TlsPair,
    User,
    Policy,
    Key,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::SigningKey => "signing_key",
            Self::TlsPair => "tls_pair",
            Self::User => "user",
            Self::Policy => "policy",
            Self::Key => "key",
        }
    }
}

/// What is taken over.
pub(super) enum Record {
    /// PKCS#8 PEM.
    SigningKey(Zeroizing<String>),
    /// Certificate and key, PEM.
    TlsPair {
        certificate: Vec<u8>,
        key: Zeroizing<Vec<u8>>,
    },
    User(UserRecord),
    Policy(PolicyRecord),
    Key(KeyRecord),
}

/// How far an item came.
pub(super) enum State {
    /// To be taken over.
    Import(Record),
    /// Found, and nothing is done with it here.
    Reported,
    /// Already in key-release.
    AlreadyThere,
    /// Taken over.
    Imported,
    /// Not taken over.
    Refused(Refusal),
}

impl State {
    const fn name(&self) -> &'static str {
        match self {
            Self::Import(_) => "import",
            Self::Reported => "reported",
            Self::AlreadyThere => "already_there",
            Self::Imported => "imported",
            Self::Refused(_) => "refused",
        }
    }
}

/// One record.
pub(super) struct Item {
    pub(super) kind: Kind,
    /// The file's name.
    pub(super) id: String,
    /// For people.
    pub(super) name: String,
    pub(super) state: State,
    pub(super) notes: Vec<String>,
}

/// Every record, in the order in which they are imported: a key comes after its policy.
pub(super) struct Plan {
    pub(super) items: Vec<Item>,
}

impl Plan {
    /// Reads users, policies and keys and checks each, and each against the others.
    pub(super) fn read(places: &Places, kms_kind: Option<KmsKind>) -> Self {
        let mut items = Vec::new();
        items.extend(found(Kind::User, &places.users, |name, bytes| {
            record::user(name, bytes).map(|user| (user.username.clone(), user.notes.clone(), Record::User(user)))
        }));
        items.extend(found(Kind::Policy, &places.policies, |name, bytes| {
            record::policy(name, bytes).map(|policy| (String::new(), policy.notes.clone(), Record::Policy(policy)))
        }));
        items.extend(found(Kind::Key, &places.keys, |name, bytes| {
            record::key(name, bytes, kms_kind).map(|key| (described(&key), key.notes.clone(), Record::Key(key)))
        }));
        let mut plan = Self { items };
        plan.refuse_second_names();
        plan.refuse_keys_without_their_policy();
        plan
    }

    /// Two users of one name: nobody can say whose password counts.
    fn refuse_second_names(&mut self) {
        let mut count: BTreeMap<String, usize> = BTreeMap::new();
        for item in &self.items {
            if let State::Import(Record::User(user)) = &item.state {
                *count.entry(user.username.clone()).or_default() += 1;
            }
        }
        for item in &mut self.items {
            if let State::Import(Record::User(user)) = &item.state
                && count.get(&user.username).is_some_and(|count| *count > 1)
            {
                item.state = State::Refused(Refusal::new(
                    format!("another file has a user named {} too", user.username),
                    "remove the file that is not the one in use",
                ));
            }
        }
    }

    fn refuse_keys_without_their_policy(&mut self) {
        let refused: BTreeSet<Uuid> = self
            .items
            .iter()
            .filter(|item| item.kind == Kind::Policy && matches!(item.state, State::Refused(_)))
            .filter_map(|item| Uuid::try_parse(&item.id).ok())
            .collect();
        let present: BTreeSet<Uuid> = self
            .items
            .iter()
            .filter_map(|item| if let State::Import(Record::Policy(policy)) = &item.state { Some(policy.id) } else { None })
            .collect();
        for item in &mut self.items {
            let State::Import(Record::Key(key)) = &item.state else { continue };
            match key.policy_id {
                Some(policy) if refused.contains(&policy) => {
                    let reason = format!("its policy {policy} is refused");
                    let fix = "mend the policy, or register the key anew under another one";
                    item.state = State::Refused(Refusal::new(reason, fix));
                }
                Some(policy) if !present.contains(&policy) => {
                    item.notes.push(format!("its policy {policy} is not in the directory: it has to be in key-release already"));
                }
                Some(_) => {}
                None => item.notes.push("it has no policy: it can be exported, and not released".to_owned()),
            }
        }
    }

    pub(super) fn has_refusals(&self) -> bool {
        self.items.iter().any(|item| matches!(item.state, State::Refused(_)))
    }

    fn count(&self, name: &str) -> usize {
        self.items.iter().filter(|item| item.state.name() == name).count()
    }

    /// For programs.
    pub(super) fn to_json(&self, dry_run: bool) -> Value {
        let records: Vec<Value> = self
            .items
            .iter()
            .map(|item| {
                let refusal = if let State::Refused(refusal) = &item.state { Some(refusal) } else { None };
                json!({
                    "kind": item.kind.name(),
                    "id": item.id,
                    "name": (!item.name.is_empty()).then_some(&item.name),
                    "outcome": item.state.name(),
                    "reason": refusal.map(|refusal| &refusal.reason),
                    "fix": refusal.map(|refusal| refusal.fix),
                    "notes": item.notes,
                })
            })
            .collect();
        let counts: serde_json::Map<String, Value> = ["import", "imported", "already_there", "reported", "refused"]
            .into_iter()
            .map(|name| (name.to_owned(), self.count(name).into()))
            .collect();
        json!({ "dry_run": dry_run, "counts": counts, "records": records })
    }

    /// For people.
    pub(super) fn to_text(&self) -> String {
        let rows: Vec<[String; 4]> = self
            .items
            .iter()
            .map(|item| [item.state.name().replace('_', " "), item.kind.name().replace('_', " "), item.id.clone(), item.name.clone()])
            .collect();
        let table = output::table(["OUTCOME", "KIND", "ID", "NAME"], &rows);
        let mut lines = Vec::new();
        for (number, line) in table.lines().enumerate() {
            lines.push(line.to_owned());
            let Some(item) = number.checked_sub(1).and_then(|number| self.items.get(number)) else { continue };
            if let State::Refused(refusal) = &item.state {
                lines.push(format!("    refused: {}", output::printable(&refusal.reason)));
                lines.push(format!("    to mend it: {}", refusal.fix));
            }
            lines.extend(item.notes.iter().map(|note| format!("    note: {}", output::printable(note))));
        }
        let counts: Vec<String> = ["imported", "import", "already_there", "reported", "refused"]
            .into_iter()
            .filter(|name| self.count(name) > 0)
            .map(|name| format!("{} {}", self.count(name), if name == "import" { "to import".to_owned() } else { name.replace('_', " ") }))
            .collect();
        lines.push(counts.join(", "));
        lines.join("\n")
    }
}

type Checked = (String, Vec<String>, Record);

fn found(kind: Kind, directory: &Path, check: impl Fn(&str, &[u8]) -> Result<Checked, Refusal>) -> Vec<Item> {
    let files = match directory::files(directory) {
        Ok(files) => files,
        Err(error) => {
            let refusal = Refusal::new(format!("{}: {error}", directory.display()), "make the directory readable, and run this again");
            return vec![Item { kind, id: String::new(), name: String::new(), state: State::Refused(refusal), notes: Vec::new() }];
        }
    };
    files.into_iter().map(|file| item(kind, file, &check)).collect()
}

fn item(kind: Kind, file: Found, check: impl Fn(&str, &[u8]) -> Result<Checked, Refusal>) -> Item {
    let unread = |problem| Refusal::new(problem, "replace it by the record itself, or remove it");
    let (name, notes, state) = match file.content.map_err(unread).and_then(|bytes| check(&file.name, &bytes)) {
        Ok((name, notes, record)) => (name, notes, State::Import(record)),
        Err(refusal) => (String::new(), Vec::new(), State::Refused(refusal)),
    };
    Item { kind, id: file.name, name, state, notes }
}

fn described(key: &KeyRecord) -> String {
    let detail = if key.curve.is_empty() { key.length_bits.to_string() } else { key.curve.clone() };
    let place = match key.kms_kind {
        KmsKind::Vault => "in Vault".to_owned(),
        KmsKind::Kmip => format!("KMIP object {}", key.kms_key_ref),
    };
    let algorithm = key.algorithm.as_str_name().trim_start_matches("KEY_ALGORITHM_");
    format!("{algorithm} {detail}, {place}")
}
