//! REST clients over real TLS: one that speaks either version of HTTP, and raw bytes.

use std::{sync::Arc, time::Duration};

use axum::http::Method;
use key_release::users::{UserSettings, Users};
use keyferry_bus::Role;
use keyferry_lifecycle::Secret;
use keyferry_tls::{RootsConfig, client_config, http_client_config};
use reqwest::{Client, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{PASSWORD, Stack};

pub(crate) const JSON: &str = "application/json";

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

pub(crate) async fn sent(request: RequestBuilder) -> Answer {
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Answer { status, headers, text: response.text().await.unwrap() }
}

impl Stack {
    fn roots(&self) -> RootsConfig {
        RootsConfig::Ders(vec![self.authority.certificate_der().to_vec()])
    }

    pub(crate) fn client(&self) -> Client {
        Client::builder().tls_backend_preconfigured(http_client_config(&self.roots()).unwrap()).build().unwrap()
    }

    /// A client whose connections come from this address.
    pub(crate) fn client_at(&self, address: [u8; 4]) -> Client {
        let builder = Client::builder().tls_backend_preconfigured(http_client_config(&self.roots()).unwrap());
        builder.local_address(std::net::IpAddr::from(address)).build().unwrap()
    }

    pub(crate) fn http1(&self) -> Client {
        let mut config = http_client_config(&self.roots()).unwrap();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Client::builder().tls_backend_preconfigured(config).http1_only().build().unwrap()
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.address)
    }

    /// A request with JSON both ways and a bearer token.
    pub(crate) async fn call(&self, token: &str, method: Method, path: &str, body: Option<Value>) -> Answer {
        let mut request = self.client().request(method, self.url(path)).bearer_auth(token).header("accept", JSON);
        if let Some(body) = body {
            request = request.header("content-type", JSON).body(body.to_string());
        }
        sent(request).await
    }

    pub(crate) async fn rest_login(&self, username: &str, password: &str) -> Answer {
        let body = json!({ "username": username, "password": password }).to_string();
        let request = self.client().post(self.url("/kbs/v1/token")).header("content-type", JSON).header("accept", "application/jwt");
        sent(request.body(body)).await
    }

    /// A bearer token of the administrator.
    pub(crate) async fn rest_bearer(&self) -> String {
        let answer = self.rest_login("admin", PASSWORD).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        answer.text
    }

    /// A user of these permissions: the id, and a bearer token.
    pub(crate) async fn rest_user(&self, name: &str, permissions: &[&str]) -> (String, String) {
        let body = json!({ "username": name, "password": PASSWORD, "permissions": permissions });
        let created = self.call(&self.rest_bearer().await, Method::POST, "/kbs/v1/users", Some(body)).await;
        assert_eq!(created.status, 201, "{created:?}");
        (created.json()["id"].as_str().unwrap().to_owned(), self.rest_login(name, PASSWORD).await.text)
    }

    /// A bearer token of the administrator that has expired.
    pub(crate) async fn expired_bearer(&self) -> String {
        let bus = self.nats.connect(Role::KeyRelease).await.unwrap();
        let settings = key_release::UsersConfig::default().settings();
        let settings = UserSettings { token_validity: Duration::ZERO, ..settings };
        let users = Users::new(&self.release, &bus, &self.store_key, &settings);
        users.bootstrap(Some(&("admin".to_owned(), Secret::new(PASSWORD.to_owned())))).await.unwrap();
        users.login("admin", &PASSWORD.to_owned().into(), None).await.unwrap()
    }

    /// A TLS session without ALPN.
    pub(crate) async fn raw(&self) -> TlsStream<TcpStream> {
        let config = client_config(&self.roots(), false).unwrap();
        let stream = TcpStream::connect(self.address).await.unwrap();
        TlsConnector::from(Arc::new(config)).connect("127.0.0.1".try_into().unwrap(), stream).await.unwrap()
    }
}

/// Sends bytes as they are; gives everything that comes until the connection ends.
pub(crate) async fn exchanged(session: &mut TlsStream<TcpStream>, bytes: &[u8]) -> String {
    // A server that refuses early may close before it has everything.
    let _cut_off = session.write_all(bytes).await;
    ended(session).await
}

/// What comes until the connection ends.
pub(crate) async fn ended(session: &mut TlsStream<TcpStream>) -> String {
    let mut answer = Vec::new();
    // It may end without TLS's farewell.
    let _ended = tokio::time::timeout(Duration::from_secs(30), session.read_to_end(&mut answer)).await.expect("it closes");
    String::from_utf8_lossy(&answer).into_owned()
}
