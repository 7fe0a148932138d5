//! A TLS server that answers KMIP requests as a script says, and counts what it is asked.

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use keyferry_kms::{KmipConfig, KmipTimeouts, ReleaseRules, TlsLibrary, Version};
use keyferry_tls::{CertificateAuthority, server_config_from_issued};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

/// 1 November 2026: the certificates' first day.
const NOW: u64 = 1_793_491_200;

/// What the server does with a request.
pub(crate) enum Reaction {
    Answer(Vec<u8>),
    /// Sends these bytes and closes.
    AnswerAndClose(Vec<u8>),
    /// Sends these bytes and then nothing more, without closing.
    AnswerAndStall(Vec<u8>),
    /// Never answers.
    Silence,
}

type Script = dyn Fn(usize, &[u32]) -> Reaction + Send + Sync;

/// What the server saw: for each request the connection's number and the operations asked for.
pub(crate) type Seen = Arc<Mutex<Vec<(usize, Vec<u32>)>>>;

pub(crate) struct Scripted {
    pub(crate) seen: Seen,
    directory: TempDir,
    port: u16,
    task: JoinHandle<()>,
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Scripted {
    /// `script` gets the number of the request, over all connections, and the operations in it.
    pub(crate) async fn start(script: impl Fn(usize, &[u32]) -> Reaction + Send + Sync + 'static) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let ca = CertificateAuthority::generate("scripted root", NOW, 36_500).unwrap();
        ca.write_certificate(&directory.path().join("ca.pem")).unwrap();
        ca.issue_client("client", NOW, 36_500).unwrap().write(directory.path(), "client").unwrap();
        let tls = server_config_from_issued(&ca.issue_server(&["127.0.0.1"], NOW, 36_500).unwrap(), &[]).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Seen::default();
        let task = tokio::spawn(serve(listener, TlsAcceptor::from(tls), Arc::new(script), Arc::clone(&seen)));
        Self { seen, directory, port, task }
    }

    pub(crate) fn config(&self) -> KmipConfig {
        let file = |name: &str| self.path().join(name);
        KmipConfig {
            address: format!("127.0.0.1:{}", self.port),
            server_name: None,
            version: Version::V1_4,
            tls: TlsLibrary::Rustls,
            ca_file: file("ca.pem"),
            certificate_file: file("client.pem"),
            key_file: file("client.key"),
            cipher_list: None,
            username: None,
            password_file: None,
            password: None,
            connections: 2,
            release: ReleaseRules::default(),
            timeouts: KmipTimeouts::default(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }
    pub(crate) fn requests(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
    pub(crate) fn connections(&self) -> usize {
        self.seen.lock().unwrap().iter().map(|(connection, _)| connection + 1).max().unwrap_or(0)
    }
    pub(crate) fn asked(&self, operation: u32) -> usize {
        self.seen.lock().unwrap().iter().filter(|(_, operations)| operations.contains(&operation)).count()
    }
}

async fn serve(listener: TcpListener, tls: TlsAcceptor, script: Arc<Script>, seen: Seen) {
    for connection in 0.. {
        let (tcp, _) = listener.accept().await.unwrap();
        let (tls, script, seen) = (tls.clone(), Arc::clone(&script), Arc::clone(&seen));
        tokio::spawn(async move { converse(connection, tcp, tls, &*script, &seen).await });
    }
}

async fn converse(connection: usize, tcp: TcpStream, tls: TlsAcceptor, script: &Script, seen: &Seen) -> Option<()> {
    let mut stream = tls.accept(tcp).await.ok()?;
    loop {
        let mut header = [0; 8];
        stream.read_exact(&mut header).await.ok()?;
        let mut body = vec![0; u32::from_be_bytes(header[4..].try_into().unwrap()) as usize];
        stream.read_exact(&mut body).await.ok()?;
        let operations = operations(&body);
        let number = {
            let mut seen = seen.lock().unwrap();
            seen.push((connection, operations.clone()));
            seen.len() - 1
        };
        match script(number, &operations) {
            Reaction::Answer(bytes) => stream.write_all(&bytes).await.ok()?,
            Reaction::AnswerAndClose(bytes) => {
                stream.write_all(&bytes).await.ok()?;
                return stream.shutdown().await.ok();
            }
            Reaction::AnswerAndStall(bytes) => {
                stream.write_all(&bytes).await.ok()?;
                stream.flush().await.ok()?;
                std::future::pending::<()>().await;
            }
            Reaction::Silence => std::future::pending().await,
        }
        stream.flush().await.ok()?;
    }
}

/// Every Operation item in a request, wherever it is.
fn operations(body: &[u8]) -> Vec<u32> {
    let operation = [0x42, 0x00, 0x5C, 0x05, 0, 0, 0, 4];
    body.chunks(8)
        .zip(body.chunks(8).skip(1))
        .filter(|(item, _)| *item == operation)
        .map(|(_, value)| u32::from_be_bytes(value[..4].try_into().unwrap()))
        .collect()
}
