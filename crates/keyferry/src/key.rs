//! `keyferry key`: the records of keys; the keys themselves stay in the KMS.

use std::{
    fs::File,
    io::{Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::ExitCode,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use clap::{Args, Subcommand, ValueEnum};
use keyferry_contract::release::v1::{
    CreateKeyRequest, DeleteKeyRequest, ExportKeyRequest, GetKeyRequest, GetKeyResponse, KeyAlgorithm, ListKeysRequest, UpdateKeyRequest,
};
use serde_json::{Value, json};

use crate::{
    broker::{Broker, Connection, done, online},
    output::{self, CommandResult, Failure},
};

/// An RSA-7680 private key is 4.5 kB of DER and 6 kB of PEM.
const KEY_BYTES_MAX: u64 = 64 * 1024;
const PAGE_SIZE: u32 = 1000;
const AES_BITS_DEFAULT: u32 = 256;
const RSA_BITS_DEFAULT: u32 = 3072;

/// The commands about keys.
#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Make a key in the KMS, or register one; its id goes to stdout.
    Create(Create),
    /// Show the record of a key.
    Show(One),
    /// List keys; filters are ANDed.
    List(List),
    /// Put a key under another policy.
    Update(Update),
    /// Delete the record, and the key in the KMS if key-release made it.
    Delete(One),
    /// Wrap a key for an RSA public key of one's own, to encrypt a model with: RSA-OAEP with SHA-384, base64.
    Export(Export),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum AlgorithmName {
    Aes,
    Rsa,
    Ec,
}

impl AlgorithmName {
    const fn on_the_wire(self) -> KeyAlgorithm {
        match self {
            Self::Aes => KeyAlgorithm::Aes,
            Self::Rsa => KeyAlgorithm::Rsa,
            Self::Ec => KeyAlgorithm::Ec,
        }
    }

    /// Only where a key is made: what is registered has its length.
    const fn length_default(self) -> u32 {
        match self {
            Self::Aes => AES_BITS_DEFAULT,
            Self::Rsa => RSA_BITS_DEFAULT,
            Self::Ec => 0,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    #[arg(long, value_enum, default_value = "aes")]
    algorithm: AlgorithmName,
    /// AES: 128, 192 or 256 (default); RSA: 2048, 3072 (default), 4096 or 7680; EC: by its curve.
    #[arg(long, value_name = "BITS")]
    length: Option<u32>,
    /// EC: secp256r1, secp384r1 or secp521r1.
    #[arg(long, value_name = "CURVE", required_if_eq("algorithm", "ec"))]
    curve: Option<String>,
    /// The key transfer policy; without one, the key can be exported and never released.
    #[arg(long, value_name = "ID")]
    policy_id: Option<String>,
    /// Register this object of the KMS instead of making one.
    #[arg(long, value_name = "REF", conflicts_with = "key_data_file")]
    kms_key_ref: Option<String>,
    /// Register these bytes instead of making a key. AES: the raw key; RSA and EC: PKCS#8, DER or PEM.
    #[arg(long, value_name = "FILE")]
    key_data_file: Option<PathBuf>,
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Args)]
pub(crate) struct One {
    #[arg(value_name = "KEY_ID")]
    key_id: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    #[arg(long, value_enum)]
    algorithm: Option<AlgorithmName>,
    #[arg(long, value_name = "BITS")]
    length: Option<u32>,
    #[arg(long, value_name = "CURVE")]
    curve: Option<String>,
    #[arg(long, value_name = "ID")]
    policy_id: Option<String>,
    /// Print a JSON array.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Args)]
pub(crate) struct Update {
    #[arg(value_name = "KEY_ID")]
    key_id: String,
    /// The policy it is released under from now on.
    #[arg(long, value_name = "ID")]
    policy_id: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Args)]
pub(crate) struct Export {
    #[arg(value_name = "KEY_ID")]
    key_id: String,
    /// The RSA public key to wrap for: PEM with the label PUBLIC KEY, at least 2048 bits.
    #[arg(long, value_name = "FILE")]
    public_key: PathBuf,
    /// The file to make, mode 0600; without it, stdout.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    connection: Connection,
}

pub(crate) fn run(command: KeyCommand) -> CommandResult {
    match command {
        KeyCommand::Create(create) => create.run(),
        KeyCommand::Show(one) => online(&one.connection, async |broker| one.show(broker).await),
        KeyCommand::List(list) => online(&list.connection, async |broker| list.run(broker).await),
        KeyCommand::Update(update) => online(&update.connection, async |broker| update.run(broker).await),
        KeyCommand::Delete(one) => online(&one.connection, async |broker| one.delete(broker).await),
        KeyCommand::Export(export) => export.run(),
    }
}

impl Create {
    fn run(&self) -> CommandResult {
        let key_data = self.key_data_file.as_deref().map(read).transpose()?.unwrap_or_default();
        let registers = self.kms_key_ref.is_some() || self.key_data_file.is_some();
        let length = match self.length {
            Some(bits) => bits,
            None if registers && self.algorithm != AlgorithmName::Aes => 0,
            None if self.key_data_file.is_some() => u32::try_from(key_data.len() * 8).unwrap_or(0),
            None => self.algorithm.length_default(),
        };
        let request = CreateKeyRequest {
            algorithm: self.algorithm.on_the_wire().into(),
            length_bits: length,
            policy_id: self.policy_id.clone().unwrap_or_default(),
            kms_key_ref: self.kms_key_ref.clone().unwrap_or_default(),
            curve: self.curve.clone().unwrap_or_default(),
            key_data,
        };
        online(&self.connection, async |broker| {
            let created = broker.answer(broker.keys().create_key(request).await)?;
            done(if self.json { json!({ "key_id": created.key_id }).to_string() } else { created.key_id })
        })
    }
}

impl One {
    async fn show(&self, broker: Broker) -> CommandResult {
        let found = broker.answer(broker.keys().get_key(GetKeyRequest { key_id: self.key_id.clone() }).await)?;
        output::object(&described(&found), self.json)?;
        Ok(ExitCode::SUCCESS)
    }

    async fn delete(&self, broker: Broker) -> CommandResult {
        broker.answer(broker.keys().delete_key(DeleteKeyRequest { key_id: self.key_id.clone() }).await)?;
        output::deleted("key", &self.key_id, self.json)
    }
}

impl List {
    async fn run(&self, broker: Broker) -> CommandResult {
        let mut client = broker.keys();
        let mut request = ListKeysRequest {
            algorithm: self.algorithm.map_or(KeyAlgorithm::Unspecified, AlgorithmName::on_the_wire).into(),
            length_bits: self.length.unwrap_or(0),
            curve: self.curve.clone().unwrap_or_default(),
            policy_id: self.policy_id.clone().unwrap_or_default(),
            after: String::new(),
            page_size: PAGE_SIZE,
        };
        let mut keys = Vec::new();
        loop {
            let page = broker.answer(client.list_keys(request.clone()).await)?;
            keys.extend(page.keys);
            if page.next.is_empty() {
                break;
            }
            request.after = page.next;
        }
        let rows: Vec<[String; 5]> = keys
            .iter()
            .map(|key| {
                [
                    key.key_id.clone(),
                    kind(key),
                    or_none(&key.policy_id),
                    key.kms_kind.clone(),
                    output::time(key.created_at).unwrap_or_default(),
                ]
            })
            .collect();
        let titles = ["KEY", "KIND", "POLICY", "KMS", "CREATED"];
        output::list(titles, &rows, keys.iter().map(described).collect(), self.json)?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Update {
    async fn run(&self, broker: Broker) -> CommandResult {
        let request = UpdateKeyRequest { key_id: self.key_id.clone(), policy_id: self.policy_id.clone() };
        let changed = broker.answer(broker.keys().update_key(request).await)?;
        output::object(&described(&changed), self.json)?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Export {
    fn run(&self) -> CommandResult {
        let pem = String::from_utf8(read(&self.public_key)?).map_err(|_| {
            Failure::usage(format!("{} is not PEM", self.public_key.display())).hint("it begins with -----BEGIN PUBLIC KEY-----")
        })?;
        // Made first: a key that was exported and audited should not be lost because of a file's name.
        let out = self.out.as_deref().map(create).transpose()?;
        let exported = online(&self.connection, async |broker| {
            let request = ExportKeyRequest { key_id: self.key_id.clone(), public_key_pem: pem };
            let exported = broker.answer(broker.keys().export_key(request).await)?;
            let text = STANDARD.encode(exported.wrapped_key);
            match (out, &self.out) {
                (Some(mut file), Some(path)) => {
                    writeln!(file, "{text}").map_err(|error| Failure::failed(format!("{}: {error}", path.display())))?;
                    output::talk(format!("wrote {}", path.display()));
                    Ok(ExitCode::SUCCESS)
                }
                _ => done(text),
            }
        });
        if let (Err(_), Some(path)) = (&exported, &self.out) {
            // Empty, and made by this command.
            let _ = std::fs::remove_file(path);
        }
        exported
    }
}

fn described(key: &GetKeyResponse) -> Value {
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    json!({
        "key_id": key.key_id,
        "algorithm": algorithm(key),
        "length_bits": (key.length_bits != 0).then_some(key.length_bits),
        "curve": text(&key.curve),
        "policy_id": text(&key.policy_id),
        "kms_kind": text(&key.kms_kind),
        "kms_key_ref": text(&key.kms_key_ref),
        "created_at": output::time(key.created_at),
    })
}

fn algorithm(key: &GetKeyResponse) -> &'static str {
    match key.algorithm() {
        KeyAlgorithm::Aes => "AES",
        KeyAlgorithm::Rsa => "RSA",
        KeyAlgorithm::Ec => "EC",
        KeyAlgorithm::Unspecified => "unknown",
    }
}

fn kind(key: &GetKeyResponse) -> String {
    let detail = if key.curve.is_empty() { key.length_bits.to_string() } else { key.curve.clone() };
    format!("{} {detail}", algorithm(key))
}

fn or_none(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    let failure = |problem: String| Failure::usage(format!("{}: {problem}", file.display()));
    let mut bytes = Vec::new();
    let read = File::open(file).and_then(|file| file.take(KEY_BYTES_MAX + 1).read_to_end(&mut bytes));
    read.map_err(|error| failure(error.to_string()))?;
    if bytes.len() as u64 > KEY_BYTES_MAX {
        return Err(failure(format!("more than {KEY_BYTES_MAX} bytes are no key")));
    }
    Ok(bytes)
}

fn create(path: &Path) -> Result<File, Failure> {
    let made = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    made.map_err(|error| Failure::failed(format!("{}: {error}", path.display())).hint("choose a name that does not exist"))
}
