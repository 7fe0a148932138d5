//! `keyferry user`: who may administer.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Subcommand};
use keyferry_contract::release::v1::{
    CreateUserRequest, DeleteUserRequest, GetUserRequest, ListUsersRequest, ReplaceTokenSigningKeyRequest, UpdateUserRequest, User,
};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::{
    broker::{Broker, Connection, done, online, password},
    output::{self, CommandResult, Failure},
};

/// An RSA-8192 private key is 6.5 kB of PEM.
const PEM_BYTES_MAX: u64 = 64 * 1024;

/// The commands about users.
#[derive(Debug, Subcommand)]
pub(crate) enum UserCommand {
    /// Create a user; its id goes to stdout.
    Create(Create),
    /// Show a user.
    Show(One),
    /// List users.
    List(List),
    /// Change a user's name, password or permissions. What is not given stays.
    Update(Update),
    /// Delete a user; its bearer tokens end at once.
    Delete(One),
    /// Replace the key that signs the bearer tokens of the REST interface. Tokens of the old key count until they expire.
    ReplaceSigningKey(ReplaceSigningKey),
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// The name to log in with.
    #[arg(value_name = "NAME")]
    name: String,
    /// What the user may do, such as keys:search; may be repeated, or separated by commas.
    #[arg(long = "permission", value_name = "PERMISSION", value_delimiter = ',', required = true)]
    permissions: Vec<String>,
    /// A file with the new user's password, 9 to 71 bytes. (--password-file is that of the user who asks.)
    #[arg(long, value_name = "FILE")]
    new_password_file: PathBuf,
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Args)]
pub(crate) struct One {
    #[arg(value_name = "USER_ID")]
    user_id: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// Only the user of this name.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Print a JSON array.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("change").required(true).multiple(true))]
pub(crate) struct Update {
    #[arg(value_name = "USER_ID")]
    user_id: String,
    /// A new name.
    #[arg(long, value_name = "NAME", group = "change")]
    name: Option<String>,
    /// A file with a new password.
    #[arg(long, value_name = "FILE", group = "change")]
    new_password_file: Option<PathBuf>,
    /// All permissions from now on; may be repeated, or separated by commas.
    #[arg(long = "permission", value_name = "PERMISSION", value_delimiter = ',', group = "change")]
    permissions: Vec<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Args)]
pub(crate) struct ReplaceSigningKey {
    /// PKCS#8 PEM, RSA of at least 3072 bits; without it, key-release makes one.
    #[arg(long, value_name = "FILE")]
    private_key: Option<PathBuf>,
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

pub(crate) fn run(command: UserCommand) -> CommandResult {
    match command {
        UserCommand::Create(create) => create.run(),
        UserCommand::Show(one) => online(&one.connection, async |broker| one.show(broker).await),
        UserCommand::List(list) => online(&list.connection, async |broker| list.run(broker).await),
        UserCommand::Update(update) => update.run(),
        UserCommand::Delete(one) => online(&one.connection, async |broker| one.delete(broker).await),
        UserCommand::ReplaceSigningKey(replace) => replace.run(),
    }
}

impl Create {
    fn run(&self) -> CommandResult {
        let request = CreateUserRequest {
            username: self.name.clone(),
            password: password(&self.new_password_file)?.as_str().to_owned(),
            permissions: self.permissions.clone(),
        };
        online(&self.connection, async |broker| {
            let created = broker.answer(broker.users().create_user(request).await)?;
            done(if self.json { described(&created).to_string() } else { created.user_id })
        })
    }
}

impl One {
    async fn show(&self, broker: Broker) -> CommandResult {
        let user = broker.answer(broker.users().get_user(GetUserRequest { user_id: self.user_id.clone() }).await)?;
        output::object(&described(&user), self.json)?;
        Ok(ExitCode::SUCCESS)
    }

    async fn delete(&self, broker: Broker) -> CommandResult {
        broker.answer(broker.users().delete_user(DeleteUserRequest { user_id: self.user_id.clone() }).await)?;
        output::deleted("user", &self.user_id, self.json)
    }
}

impl List {
    async fn run(&self, broker: Broker) -> CommandResult {
        let request = ListUsersRequest { username: self.name.clone().unwrap_or_default() };
        let users = broker.answer(broker.users().list_users(request).await)?.users;
        let rows: Vec<[String; 4]> = users
            .iter()
            .map(|user| {
                let created = output::time(user.created_at).unwrap_or_default();
                [user.user_id.clone(), user.username.clone(), created, user.permissions.join(",")]
            })
            .collect();
        output::list(["USER", "NAME", "CREATED", "PERMISSIONS"], &rows, users.iter().map(described).collect(), self.json)?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Update {
    fn run(&self) -> CommandResult {
        let new_password = self.new_password_file.as_deref().map(password).transpose()?;
        let request = UpdateUserRequest {
            user_id: self.user_id.clone(),
            username: self.name.clone().unwrap_or_default(),
            password: new_password.map_or_else(String::new, |password| password.as_str().to_owned()),
            permissions: self.permissions.clone(),
        };
        online(&self.connection, async |broker| {
            let user = broker.answer(broker.users().update_user(request).await)?;
            output::object(&described(&user), self.json)?;
            Ok(ExitCode::SUCCESS)
        })
    }
}

impl ReplaceSigningKey {
    fn run(&self) -> CommandResult {
        let pem = self.private_key.as_deref().map(private_key).transpose()?;
        let request = ReplaceTokenSigningKeyRequest { private_key_pem: pem.map_or_else(String::new, |pem| pem.as_str().to_owned()) };
        online(&self.connection, async |broker| {
            let replaced = broker.answer(broker.users().replace_token_signing_key(request).await)?;
            done(if self.json { json!({ "key_id": replaced.key_id }).to_string() } else { replaced.key_id })
        })
    }
}

fn private_key(file: &Path) -> Result<Zeroizing<String>, Failure> {
    let failure =
        |problem: String| Failure::usage(format!("{}: {problem}", file.display())).hint("it begins with -----BEGIN PRIVATE KEY-----");
    let mut text = Zeroizing::new(String::new());
    let read = File::open(file).and_then(|file| file.take(PEM_BYTES_MAX).read_to_string(&mut text));
    read.map_err(|error| failure(error.to_string()))?;
    if text.trim().is_empty() {
        // Empty would mean: make one.
        return Err(failure("the file is empty".to_owned()));
    }
    Ok(text)
}

pub(crate) fn described(user: &User) -> Value {
    json!({
        "user_id": user.user_id,
        "username": user.username,
        "permissions": user.permissions,
        "created_at": output::time(user.created_at),
        "updated_at": output::time(user.updated_at),
    })
}
