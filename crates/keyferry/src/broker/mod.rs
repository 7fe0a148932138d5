//! The connection of the online commands to `key-release`: gRPC over TLS 1.3, with the caller's name and password.
//!
//! Where a setting comes from, first wins: a flag, `--stack FILE`, the environment. A password is only ever read from a file:
//! command lines and environments are seen by every process of the machine.

mod refusal;
mod target;

use std::{process::ExitCode, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use keyferry_contract::release::v1::{
    key_administration_client::KeyAdministrationClient, key_broker_client::KeyBrokerClient,
    user_administration_client::UserAdministrationClient,
};
use keyferry_tls::RootsConfig;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};
use zeroize::Zeroizing;

pub(crate) use refusal::{reason, refused};
pub(crate) use target::{Connection, password};

use crate::output::{CommandResult, Failure};

/// The server answers within 30 seconds or not at all; this is a little more, so that its own reason arrives.
const ANSWER_WITHIN: Duration = Duration::from_secs(40);

/// A channel that sends the credential with every call.
pub(crate) type Authorized = InterceptedService<Channel, Credential>;

/// `key-release`, as this user. Nothing is sent before the first call.
pub(crate) struct Broker {
    channel: Channel,
    credential: Credential,
    url: String,
}

impl Broker {
    fn connect(connection: &Connection) -> Result<Self, Failure> {
        let target = connection.target(|name| std::env::var_os(name))?;
        let tls = keyferry_tls::client_config(&RootsConfig::CaFile(target.ca_file.clone()), false).map_err(|error| {
            Failure::usage(error.to_string()).hint("give the PEM file of the root that signed key-release's certificate")
        })?;
        let channel = keyferry_tls::grpc_channel(&target.url, &tls)
            .map_err(|error| Failure::usage(error.to_string()).hint("an address looks like https://keys.example.net:9443"))?;
        let credential = Credential::new(&target.username, &target.password)?;
        Ok(Self { channel, credential, url: target.url })
    }

    /// Keys and policies.
    pub(crate) fn keys(&self) -> KeyAdministrationClient<Authorized> {
        KeyAdministrationClient::with_interceptor(self.channel.clone(), self.credential.clone())
    }

    /// Users.
    pub(crate) fn users(&self) -> UserAdministrationClient<Authorized> {
        UserAdministrationClient::with_interceptor(self.channel.clone(), self.credential.clone())
    }

    /// Decisions.
    pub(crate) fn decisions(&self) -> KeyBrokerClient<Authorized> {
        KeyBrokerClient::with_interceptor(self.channel.clone(), self.credential.clone())
    }

    /// The answer, or why there is none.
    pub(crate) fn answer<T>(&self, answer: Result<tonic::Response<T>, Status>) -> Result<T, Failure> {
        answer.map(tonic::Response::into_inner).map_err(|status| refused(&self.url, &status))
    }

    /// Where it is, for people.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }
}

/// Runs one online command.
pub(crate) fn online(connection: &Connection, command: impl AsyncFnOnce(Broker) -> CommandResult) -> CommandResult {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::failed(format!("no runtime: {error}")))?;
    runtime.block_on(async {
        let broker = Broker::connect(connection)?;
        command(broker).await
    })
}

/// Prints one thing and is done.
pub(crate) fn done(data: impl std::fmt::Display) -> CommandResult {
    crate::output::data(data)?;
    Ok(ExitCode::SUCCESS)
}

/// Name and password as `authorization: Basic ...`; marked sensitive, so that no library prints it.
#[derive(Clone)]
pub(crate) struct Credential(MetadataValue<Ascii>);

impl Credential {
    fn new(username: &str, password: &str) -> Result<Self, Failure> {
        let pair = Zeroizing::new(format!("{username}:{password}"));
        let text = Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes())));
        let mut value: MetadataValue<Ascii> = text.parse().map_err(|_| Failure::usage("the name and password cannot be sent"))?;
        value.set_sensitive(true);
        Ok(Self(value))
    }
}

impl Interceptor for Credential {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        request.set_timeout(ANSWER_WITHIN);
        Ok(request)
    }
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credential(redacted)")
    }
}
