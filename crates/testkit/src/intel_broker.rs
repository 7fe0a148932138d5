//! Intel's key broker as a KMIP server sees it: a connection for each operation, no names, nothing ever activated.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use keyferry_kmip::{Algorithm, HEADER_BYTES, NewKey, Request, UsageMask, Version, decode, encode, frame_length};
use keyferry_tls::ClientCertificate;
use openssl::ssl::{SslConnector, SslFiletype, SslMethod};

use crate::{StartFailure, pykmip::Pykmip};

/// Makes an AES-256 key as that broker makes it, in state Pre-Active. Returns its identifier.
pub async fn create_key(server: &Pykmip, version: Version) -> Result<String, StartFailure> {
    let (address, ca_file, owner) = (server.address(), server.ca_file(), server.owner().clone());
    let exchange = move || -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
        let ClientCertificate { certificate_file, key_file } = owner;
        let mut connector = SslConnector::builder(SslMethod::tls_client())?;
        connector.set_ca_file(ca_file)?;
        connector.set_certificate_chain_file(certificate_file)?;
        connector.set_private_key_file(key_file, SslFiletype::PEM)?;
        let mut stream = connector.build().connect("127.0.0.1", TcpStream::connect(address)?)?;

        let usage = UsageMask::ENCRYPT.with(UsageMask::DECRYPT);
        let request = Request::Create { key: NewKey { algorithm: Algorithm::Aes, length_bits: 256, usage, name: None } };
        stream.write_all(&encode(version, None, std::slice::from_ref(&request))?)?;
        let mut answer = vec![0; HEADER_BYTES];
        stream.read_exact(&mut answer)?;
        let header = <[u8; HEADER_BYTES]>::try_from(answer.as_slice())?;
        let mut body = vec![0; frame_length(header)?];
        stream.read_exact(&mut body)?;
        answer.extend_from_slice(&body);
        let payloads = decode(&answer, &[request])?;
        let id = payloads.first().ok_or("no answer")?.id()?;
        Ok(id.as_str().to_owned())
    };
    let made = tokio::task::spawn_blocking(exchange).await.map_err(|error| error.to_string());
    made.and_then(|made| made.map_err(|error| error.to_string()))
        .map_err(|error| StartFailure::new(format!("PyKMIP made no key: {error}"), "read its log"))
}
