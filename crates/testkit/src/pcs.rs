//! A service of the shape of Intel's PCS and of a PCCS, over HTTPS, that hands out whatever collateral it is given: the
//! simulator's, as a rule. It can be told to fail in the ways the real ones do.

use std::{
    collections::{HashMap, VecDeque},
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    Router,
    extract::State,
    http::{HeaderName, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use axum_server::{Handle, tls_rustls::RustlsConfig};
use keyferry_tls::{ALPN_HTTP, CertificateAuthority, server_config_from_issued};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde_json::Value;
use tokio::sync::watch;

use crate::{StartFailure, nats::now, write_private};

/// As the service encodes chains: line ends and blanks, and a plus stays a plus.
const CHAIN: &AsciiSet = &CONTROLS.add(b' ').add(b'%').add(b'=').add(b'/');
const ROOT_CRL_OF_PCS: &str = "/IntelSGXRootCA.der";
/// More than any client may read.
const HUGE_BYTES: usize = 8 * 1024 * 1024;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PcsItem {
    /// `/tdx/certification/v4/tcb`.
    TcbInfo,
    /// `/tdx/certification/v4/qe/identity`.
    QeIdentity,
    /// `/sgx/certification/v4/pckcrl`.
    PckCrl,
    /// `/IntelSGXRootCA.der` of a PCS, `/sgx/certification/v4/rootcacrl` of a PCCS.
    RootCrl,
}

/// How an answer goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PcsFault {
    /// A status and nothing else.
    Status(u16),
    /// A status with `Retry-After` in seconds.
    RetryAfter(u16, u64),
    /// A redirect to the same item at this server.
    Redirect,
    /// 8 MiB of blanks.
    Huge,
    /// Status 200 and HTML.
    Garbage,
    /// The right body without the header that has the chain.
    NoChain,
    /// The right answer with a `Warning` header.
    Warning,
    /// No answer until [`Pcs::release`].
    Held,
}

type Documents = HashMap<(String, bool), Value>;

#[derive(Debug, Default)]
struct Stock {
    tcb_infos: Documents,
    qe_identities: HashMap<bool, Value>,
    pck_crls: HashMap<String, Value>,
    root_crl: Option<Value>,
    next: HashMap<PcsItem, VecDeque<PcsFault>>,
    always: HashMap<PcsItem, PcsFault>,
    requests: Vec<String>,
}

/// Serves until it is dropped.
#[derive(Debug)]
pub struct Pcs {
    url: String,
    ca_file: PathBuf,
    stock: Arc<Mutex<Stock>>,
    released: watch::Sender<u64>,
    handle: Handle<std::net::SocketAddr>,
}

#[derive(Clone)]
struct Shared {
    stock: Arc<Mutex<Stock>>,
    released: watch::Receiver<u64>,
}

impl Pcs {
    /// Listens on a free port of 127.0.0.1; the root of its certificate is written into `directory`.
    pub fn start(directory: &Path) -> Result<Self, StartFailure> {
        let failed = |error: &dyn std::fmt::Display| StartFailure::new(format!("the PCS stand-in does not start: {error}"), "report this");
        let authority = CertificateAuthority::generate("PCS stand-in", now(), 30).map_err(|error| failed(&error))?;
        let issued = authority.issue_server(&["127.0.0.1", "localhost"], now(), 30).map_err(|error| failed(&error))?;
        let tls = server_config_from_issued(&issued, ALPN_HTTP).map_err(|error| failed(&error))?;
        let ca_file = directory.join("pcs-ca.pem");
        write_private(&ca_file, authority.certificate_pem())?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|error| failed(&error))?;
        listener.set_nonblocking(true).map_err(|error| failed(&error))?;
        let url = format!("https://{}", listener.local_addr().map_err(|error| failed(&error))?);
        let (stock, (released, receiver), handle) = (Arc::<Mutex<Stock>>::default(), watch::channel(0), Handle::new());
        let router = Router::new().fallback(answer).with_state(Shared { stock: Arc::clone(&stock), released: receiver });
        let server = axum_server::from_tcp_rustls(listener, RustlsConfig::from_config(tls)).map_err(|error| failed(&error))?;
        tokio::spawn(server.handle(handle.clone()).serve(router.into_make_service()));
        Ok(Self { url, ca_file, stock, released, handle })
    }

    /// The base of its address.
    pub fn url(&self) -> &str {
        &self.url
    }
    /// PEM: the root of its certificate.
    pub fn ca_file(&self) -> &Path {
        &self.ca_file
    }

    /// Serves every item of a collateral document (JSON), for both updates and under the platform CA. The QE identity and
    /// the CRLs of the last document count for every family, as Intel's do.
    pub fn serve(&self, collateral: &str) {
        for item in [PcsItem::TcbInfo, PcsItem::QeIdentity, PcsItem::PckCrl, PcsItem::RootCrl] {
            self.serve_item(item, collateral);
        }
    }

    /// Serves one item of a document and leaves the others.
    pub fn serve_item(&self, item: PcsItem, collateral: &str) {
        let mut stock = self.stock();
        let document = parse(collateral);
        match item {
            PcsItem::TcbInfo => {
                for early in [false, true] {
                    stock.tcb_infos.insert((fmspc(&document), early), document.clone());
                }
            }
            PcsItem::QeIdentity => stock.qe_identities.extend([false, true].map(|early| (early, document.clone()))),
            PcsItem::PckCrl => drop(stock.pck_crls.insert("platform".to_owned(), document)),
            PcsItem::RootCrl => stock.root_crl = Some(document),
        }
    }

    /// Serves TCB info and QE identity of a document to those alone who ask for `early`.
    pub fn serve_early(&self, collateral: &str) {
        let mut stock = self.stock();
        let document = parse(collateral);
        stock.tcb_infos.insert((fmspc(&document), true), document.clone());
        stock.qe_identities.insert(true, document);
    }

    /// Serves the TCB info of a document under another family's address.
    pub fn serve_tcb_info_as(&self, fmspc: [u8; 6], collateral: &str) {
        let document = parse(collateral);
        self.stock().tcb_infos.extend([false, true].map(|early| ((hex::encode(fmspc), early), document.clone())));
    }

    /// Serves the PCK CRL of a document as that of another CA.
    pub fn serve_pck_crl_as(&self, ca: &str, collateral: &str) {
        self.stock().pck_crls.insert(ca.to_owned(), parse(collateral));
    }

    /// The next answers about `item` go wrong, one after another.
    pub fn fail_next(&self, item: PcsItem, faults: impl IntoIterator<Item = PcsFault>) {
        self.stock().next.entry(item).or_default().extend(faults);
    }

    /// Every answer about `item` goes wrong until [`Self::heal`].
    pub fn fail(&self, item: PcsItem, fault: PcsFault) {
        self.stock().always.insert(item, fault);
    }

    /// Every answer is right again.
    pub fn heal(&self) {
        let mut stock = self.stock();
        stock.always.clear();
        stock.next.clear();
    }

    /// Lets go of every answer that is held.
    pub fn release(&self) {
        self.released.send_modify(|times| *times += 1);
    }

    /// Path and query of every request so far.
    pub fn requests(&self) -> Vec<String> {
        self.stock().requests.clone()
    }

    fn stock(&self) -> MutexGuard<'_, Stock> {
        lock(&self.stock)
    }
}

impl Drop for Pcs {
    fn drop(&mut self) {
        self.handle.shutdown();
    }
}

fn lock(stock: &Mutex<Stock>) -> MutexGuard<'_, Stock> {
    stock.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is no JSON becomes null, and every item of it is then unknown.
fn parse(collateral: &str) -> Value {
    serde_json::from_str(collateral).unwrap_or_default()
}

fn text(document: &Value, name: &str) -> String {
    document[name].as_str().unwrap_or_default().to_owned()
}

fn fmspc(document: &Value) -> String {
    parse(&text(document, "tcb_info"))["fmspc"].as_str().unwrap_or_default().to_lowercase()
}

async fn answer(State(mut shared): State<Shared>, uri: Uri) -> Response {
    let Some(item) = item(uri.path()) else { return StatusCode::NOT_FOUND.into_response() };
    let fault = {
        let mut stock = lock(&shared.stock);
        stock.requests.push(uri.path_and_query().map(ToString::to_string).unwrap_or_default());
        stock.next.get_mut(&item).and_then(VecDeque::pop_front).or_else(|| stock.always.get(&item).copied())
    };
    let mut response = match fault {
        Some(PcsFault::Status(status)) => status_alone(status),
        Some(PcsFault::RetryAfter(status, seconds)) => ([(header::RETRY_AFTER, seconds.to_string())], status_alone(status)).into_response(),
        Some(PcsFault::Redirect) => (StatusCode::FOUND, [(header::LOCATION, uri.to_string())]).into_response(),
        Some(PcsFault::Huge) => " ".repeat(HUGE_BYTES).into_response(),
        Some(PcsFault::Garbage) => "<html>the service is fine</html>".into_response(),
        Some(PcsFault::NoChain) => found(&shared.stock, item, &uri).map_or_else(not_found, |(_, body)| body.into_response()),
        Some(PcsFault::Held) => {
            let seen = *shared.released.borrow_and_update();
            let _ended = shared.released.wait_for(|times| *times > seen).await;
            right(&shared.stock, item, &uri)
        }
        Some(PcsFault::Warning) | None => right(&shared.stock, item, &uri),
    };
    if fault == Some(PcsFault::Warning) {
        response.headers_mut().insert(header::WARNING, HeaderValue::from_static("299 - \"this version will be switched off\""));
    }
    response.headers_mut().insert(HeaderName::from_static("request-id"), HeaderValue::from_static("0b9d0ec0a2f1469ba1e7b1a3b0b4b8f1"));
    response
}

fn item(path: &str) -> Option<PcsItem> {
    Some(match path {
        "/tdx/certification/v4/tcb" => PcsItem::TcbInfo,
        "/tdx/certification/v4/qe/identity" => PcsItem::QeIdentity,
        "/sgx/certification/v4/pckcrl" => PcsItem::PckCrl,
        "/sgx/certification/v4/rootcacrl" | ROOT_CRL_OF_PCS => PcsItem::RootCrl,
        _ => return None,
    })
}

fn status_alone(status: u16) -> Response {
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR).into_response()
}

fn not_found() -> Response {
    StatusCode::NOT_FOUND.into_response()
}

fn right(stock: &Mutex<Stock>, item: PcsItem, uri: &Uri) -> Response {
    let Some((chain, body)) = found(stock, item, uri) else { return not_found() };
    let mut response = body.into_response();
    if let Some((name, chain)) = chain
        && let Ok(value) = HeaderValue::from_str(&utf8_percent_encode(&chain, CHAIN).to_string())
    {
        response.headers_mut().insert(HeaderName::from_static(name), value);
    }
    response
}

type Found = (Option<(&'static str, String)>, Vec<u8>);

fn found(stock: &Mutex<Stock>, item: PcsItem, uri: &Uri) -> Option<Found> {
    let stock = lock(stock);
    let query: HashMap<String, String> = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
    let early = query.get("update").is_some_and(|update| update == "early");
    let signed = |document: &Value, member: &str, name: &str| {
        format!("{{\"{member}\":{},\"signature\":\"{}\"}}", text(document, name), text(document, &format!("{name}_signature"))).into_bytes()
    };
    Some(match item {
        PcsItem::TcbInfo => {
            let document = stock.tcb_infos.get(&(query.get("fmspc")?.to_lowercase(), early))?;
            (Some(("tcb-info-issuer-chain", text(document, "tcb_info_issuer_chain"))), signed(document, "tcbInfo", "tcb_info"))
        }
        PcsItem::QeIdentity => {
            let document = stock.qe_identities.get(&early)?;
            let chain = text(document, "qe_identity_issuer_chain");
            (Some(("sgx-enclave-identity-issuer-chain", chain)), signed(document, "enclaveIdentity", "qe_identity"))
        }
        PcsItem::PckCrl => {
            let document = stock.pck_crls.get(query.get("ca")?)?;
            let chain = Some(("sgx-pck-crl-issuer-chain", text(document, "pck_crl_issuer_chain")));
            let der = hex::decode(text(document, "pck_crl")).ok()?;
            (
                chain,
                if query.get("encoding").is_some_and(|encoding| encoding == "der") {
                    der
                } else {
                    pem::encode(&pem::Pem::new("X509 CRL", der)).into_bytes()
                },
            )
        }
        PcsItem::RootCrl => {
            let text = text(stock.root_crl.as_ref()?, "root_ca_crl");
            // A PCCS sends hex, Intel's certificate server DER.
            (None, if uri.path() == ROOT_CRL_OF_PCS { hex::decode(text).ok()? } else { text.into_bytes() })
        }
    })
}
