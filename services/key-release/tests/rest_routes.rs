//! Every route of the router, attacked in every way: the list is the router's own, so that a new route is attacked too,
//! and one without a sample request fails here.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of a test fails the test")]

mod harness;

use harness::{
    Stack,
    rest::{Answer, JSON, sent},
    verifier::ANCHOR,
};
use key_release::{
    rest::{ROUTES, Route},
    users::Permission,
};
use keyferry_key_wrap::ExportKeyPair;
use reqwest::RequestBuilder;
use serde_json::json;

/// Who needs no token, on purpose.
const PUBLIC: [&str; 4] = ["GET /kbs/v1/version", "GET /kbs/v1/openapi.json", "POST /kbs/v1/token", "POST /kbs/v1/keys/{id}/transfer"];

/// Records to ask for.
struct Site {
    stack: Stack,
    bearer: String,
    key: String,
    policy: String,
    user: String,
}

impl Site {
    async fn new() -> Self {
        let stack = Stack::start().await;
        let bearer = stack.rest_bearer().await;
        let policy = stack.policy(json!({ "trust_anchor": ANCHOR, "mrtd": ["aa".repeat(48)] })).await;
        let key = stack.key(&policy).await;
        let (user, _) = stack.rest_user("someone", &["keys:search"]).await;
        Self { stack, bearer, key, policy, user }
    }

    /// A good body, and the path with ids of records that are there.
    fn sample(&self, route: &Route) -> (String, String) {
        let name = format!("{} {}", route.method, route.path);
        let id = match route.path {
            path if path.contains("/users") => &self.user,
            path if path.contains("/key-transfer-policies") => &self.policy,
            _ => &self.key,
        };
        let query = if matches!(name.as_str(), "GET /kbs/v1/users") { "?username=" } else { "" };
        let query = if name == "GET /kbs/v1/keys" { "?algorithm=" } else { query };
        let body = match name.as_str() {
            "POST /kbs/v1/token" => json!({ "username": "admin", "password": harness::PASSWORD }).to_string(),
            "POST /kbs/v1/users" => {
                json!({ "username": "another", "password": harness::PASSWORD, "permissions": ["keys:create"] }).to_string()
            }
            "PUT /kbs/v1/users/{id}" => "{}".to_owned(),
            "POST /kbs/v1/key-transfer-policies" => json!({ "attestation_type": "TDX", "tdx": { "attributes": {} } }).to_string(),
            "POST /kbs/v1/keys" => json!({ "key_information": { "algorithm": "AES", "key_length": 256 } }).to_string(),
            "PUT /kbs/v1/keys/{id}" => json!({ "transfer_policy_id": self.policy }).to_string(),
            "POST /kbs/v1/keys/{id}" => ExportKeyPair::generate(2048).unwrap().public_pem(),
            "POST /kbs/v1/keys/{id}/transfer" => json!({ "attestation_token": self.stack.verifier.token(|_| {}) }).to_string(),
            _ if route.content_type().is_none() => String::new(),
            _ => panic!("{name} has no row: write a sample request for it"),
        };
        (format!("{}{query}", route.path.replace("{id}", id)), body)
    }

    /// The sample request, without a credential.
    fn request(&self, route: &Route, path: &str, body: impl Into<reqwest::Body>) -> RequestBuilder {
        let mut request = self.stack.client().request(route.method.clone(), self.stack.url(path));
        if let Some(content_type) = route.content_type() {
            request = request.header("content-type", content_type).body(body);
        }
        if let Some(accept) = route.accept() {
            request = request.header("accept", accept);
        }
        request
    }

    async fn attacked(&self, route: &Route, body: impl Into<reqwest::Body>) -> Answer {
        let (path, _) = self.sample(route);
        sent(self.request(route, &path, body).bearer_auth(&self.bearer)).await
    }
}

fn name(route: &Route) -> String {
    format!("{} {}", route.method, route.path)
}

/// Deletions last: the others need what they delete.
fn in_order() -> Vec<&'static Route> {
    let mut routes: Vec<_> = ROUTES.iter().collect();
    routes.sort_by_key(|route| (route.method.as_str() == "DELETE", route.path.contains("policies"), route.path));
    routes
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_wants_its_permission_and_no_other() {
    let site = Site::new().await;
    let expired = site.stack.expired_bearer().await;
    let mut public = Vec::new();
    for route in in_order() {
        let (path, body) = site.sample(route);
        let Some(permission) = route.permission() else {
            public.push(name(route));
            let answer = sent(site.request(route, &path, body)).await;
            assert_eq!(answer.status, route.status, "{} {answer:?}", name(route));
            continue;
        };
        let others: Vec<_> = Permission::ALL.into_iter().filter(|other| *other != permission).map(Permission::as_str).collect();
        let user = format!("{}{}", permission.as_str().replace([':', '_'], ""), path.len());
        let (others_id, others) = site.stack.rest_user(&format!("not{user}"), &others).await;
        let (_, right) = site.stack.rest_user(&user, &[permission.as_str()]).await;
        let (header, rest) = right.split_once('.').unwrap();
        let unsigned = format!("eyJhbGciOiJub25lIiwia2lkIjoic2VjcmV0LWlkIn0.{}.", rest.split_once('.').unwrap().0);
        let credentials = [
            None,
            Some("Bearer".to_owned()),
            Some("Bearer x".to_owned()),
            Some(format!("bearer {right}")),
            Some(format!("Bearer  {right}")),
            Some(right.clone()),
            Some(format!("Bearer {unsigned}")),
            Some(format!("Bearer {header}.{}{}", &rest[..rest.len() - 1], if rest.ends_with('x') { 'y' } else { 'x' })),
            Some(format!("Bearer {expired}")),
            Some(format!("Bearer {others}")),
            Some("Basic YWRtaW46Y29ycmVjdCBob3JzZSBiYXR0ZXJ5".to_owned()),
        ];
        for credential in credentials {
            let mut request = site.request(route, &path, body.clone());
            if let Some(credential) = &credential {
                request = request.header("authorization", credential);
            }
            let answer = sent(request).await;
            assert_eq!((answer.status, answer.text.as_str()), (401, "Unauthorized\n"), "{} {credential:?}", name(route));
            assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
            assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
        }
        // A token counts until its user is gone, whatever it says.
        let deleted = site.stack.call(&site.bearer, reqwest::Method::DELETE, &format!("/kbs/v1/users/{others_id}"), None).await;
        assert_eq!(deleted.status, 204);
        let answer = sent(site.request(route, &path, body.clone()).bearer_auth(&right)).await;
        let accepted = answer.status == route.status || (name(route).starts_with("DELETE") && answer.status == 400);
        assert!(accepted, "{} {answer:?}", name(route));
    }
    public.sort_unstable();
    let mut expected = PUBLIC.map(str::to_owned).to_vec();
    expected.sort_unstable();
    assert_eq!(public, expected, "a route without a permission is public on purpose, and listed here");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_answers_bad_bodies_and_lives() {
    let site = Site::new().await;
    for route in ROUTES.iter().filter(|route| route.content_type() == Some(JSON)) {
        let deep = format!("{}1{}", "{\"tdx\":".repeat(2000), "}".repeat(2000));
        let arrays = "[".repeat(10_000);
        let bodies: Vec<Vec<u8>> = vec![
            b"{".to_vec(),
            b"null".to_vec(),
            b"[]".to_vec(),
            b"\"x\"".to_vec(),
            b"7".to_vec(),
            b"   ".to_vec(),
            b"\xff\xfe".to_vec(),
            b"{\"username\":\"\xff\",\"attestation_token\":\"\xff\",\"attestation_type\":\"\xff\"}".to_vec(),
            b"{\"\\ud800\":1}".to_vec(),
            b"\xef\xbb\xbf{}".to_vec(),
            deep.into_bytes(),
            arrays.into_bytes(),
            json!({ "unknown_member": 1 }).to_string().into_bytes(),
            json!({ "username": 7, "attestation_token": 7, "attestation_type": 7, "key_information": 7, "transfer_policy_id": 7 })
                .to_string()
                .into_bytes(),
            json!({ "username": [], "attestation_token": {}, "tdx": [], "key_information": [], "transfer_policy_id": {} })
                .to_string()
                .into_bytes(),
            b"{\"username\":\"a\",\"USERNAME\":\"b\",\"nonce\":null,\"NONCE\":null}".to_vec(),
        ];
        for body in bodies {
            let text = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
            let answer = site.attacked(route, body).await;
            assert_eq!(answer.status, 400, "{} {text} {answer:?}", name(route));
            assert!(answer.json()["error"].is_string() && answer.text.ends_with('\n'), "{answer:?}");
            assert_eq!(answer.header("content-type"), Some(JSON));
        }
    }
    site.still_serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_bounds_its_body() {
    let site = Site::new().await;
    for route in ROUTES.iter().filter(|route| route.content_type().is_some()) {
        let too_large = vec![b' '; route.body_bytes_max() + 1];
        assert_eq!(site.attacked(route, too_large.clone()).await.status, 413, "{}", name(route));
        let chunks = futures::stream::iter(too_large.chunks(1000).map(|chunk| Ok::<_, std::io::Error>(chunk.to_vec())).collect::<Vec<_>>());
        assert_eq!(site.attacked(route, reqwest::Body::wrap_stream(chunks)).await.status, 413, "{} in chunks", name(route));
        // Nothing is no body, and an empty stream is bad JSON or bad PEM.
        let nothing = site.attacked(route, "").await;
        if name(route).ends_with("/transfer") {
            assert_eq!(nothing.status, 200, "a challenge: {nothing:?}");
        } else {
            assert_eq!(nothing.status, 400, "{}", name(route));
        }
        let empty = reqwest::Body::wrap_stream(futures::stream::iter([Ok::<_, std::io::Error>(Vec::<u8>::new())]));
        assert_eq!(site.attacked(route, empty).await.status, 400, "{}", name(route));
    }
    site.still_serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_compares_its_headers_exactly() {
    let site = Site::new().await;
    for route in ROUTES.iter() {
        let (path, body) = site.sample(route);
        let ask = |content_type: Option<&str>, accept: Option<&str>| {
            let mut request = site.stack.client().request(route.method.clone(), site.stack.url(&path)).bearer_auth(&site.bearer);
            if route.content_type().is_some() {
                request = request.body(body.clone());
            }
            if let Some(value) = content_type {
                request = request.header("content-type", value);
            }
            sent(request.header("accept", accept.unwrap_or("*/*")))
        };
        if let Some(right) = route.content_type() {
            for wrong in [None, Some(format!("{right}; charset=utf-8")), Some(right.to_uppercase()), Some("text/plain".to_owned())] {
                let answer = ask(wrong.as_deref(), route.accept()).await;
                assert_eq!(answer.status, 415, "{} {wrong:?} {answer:?}", name(route));
            }
        }
        if let Some(right) = route.accept() {
            for wrong in [None, Some(format!("{right}, */*")), Some(right.to_uppercase())] {
                let answer = ask(route.content_type(), wrong.as_deref()).await;
                assert_eq!(answer.status, 415, "{} {wrong:?} {answer:?}", name(route));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_path_has_its_methods_and_its_ids() {
    let site = Site::new().await;
    for route in ROUTES.iter() {
        let here: Vec<_> = ROUTES.iter().filter(|other| other.path == route.path).map(|other| other.method.as_str()).collect();
        let (path, _) = site.sample(route);
        for method in ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "get", "TRACE"] {
            if here.contains(&method) {
                continue;
            }
            let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
            let answer = sent(site.stack.client().request(method.clone(), site.stack.url(&path))).await;
            assert_eq!((answer.status, answer.text.as_str()), (405, ""), "{method} {path}");
        }
        let slash = sent(site.stack.client().request(route.method.clone(), site.stack.url(&format!("{}/", route.path)))).await;
        assert_eq!(slash.status, 404, "no path ends in a slash: {}/", route.path);
        if !route.path.contains("{id}") {
            continue;
        }
        for id in
            ["x", "5f1c7a52-3c0e-1f0b-9f43-5d1d2a6f7b10", "5f1c7a52-3c0e-4f0b-%7Cf43-5d1d2a6f7b10", "5f1c7a523c0e4f0b9f435d1d2a6f7b10"]
        {
            // Before the method and before the credential.
            for method in [route.method.clone(), reqwest::Method::PATCH] {
                let answer = sent(site.stack.client().request(method, site.stack.url(&route.path.replace("{id}", id)))).await;
                assert_eq!(answer.status, 404, "{} {id}", name(route));
                assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
            }
        }
    }
}

impl Site {
    async fn still_serves(&self) {
        let answer = sent(self.stack.client().get(self.stack.url("/kbs/v1/version"))).await;
        assert_eq!(answer.status, 200);
        let token = self.stack.verifier.token(|_| {});
        assert!(self.stack.transfer(&self.key, &token).await.is_ok(), "gRPC lives as well");
    }
}
