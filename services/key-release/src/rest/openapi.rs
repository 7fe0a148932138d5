//! `GET /openapi.json`, made from [`ROUTES`]: a route cannot be missing there.

use std::sync::LazyLock;

use axum::http::StatusCode;
use serde_json::{Map, Value, json};

use super::{
    Call, Rest,
    reply::{self, Answer},
    routes::{Access, Consumes, ID, Produces, ROUTES, Route},
};

static DOCUMENT: LazyLock<Value> = LazyLock::new(document);

pub(super) async fn serve(_rest: Rest, _call: Call) -> Answer {
    Ok(reply::json(StatusCode::OK, &*DOCUMENT))
}

fn document() -> Value {
    let mut paths = Map::new();
    for route in ROUTES.iter() {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.as_str().to_ascii_lowercase()] = operation(route);
    }
    json!({
        "openapi": "3.1.0",
        "info": { "title": "Key Broker Service", "version": env!("CARGO_PKG_VERSION"), "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" } },
        "paths": paths,
        "components": {
            "schemas": schemas(),
            "securitySchemes": { "bearer": { "type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "A token of POST /kbs/v1/token." } },
        },
    })
}

fn operation(route: &Route) -> Value {
    let mut responses = Map::new();
    responses.insert(route.status.to_string(), success(route));
    for (status, description) in refusals(route) {
        let error = json!({ "application/json": { "schema": reference("Error") } });
        let content = if status == 401 && route.permission().is_some() { json!({ "text/plain": {} }) } else { error };
        responses.insert(status.to_string(), json!({ "description": description, "content": content }));
    }
    let mut operation = json!({ "summary": route.summary, "parameters": parameters(route), "responses": responses });
    if let Some(body) = request_body(route) {
        operation["requestBody"] = body;
    }
    if let Some(permission) = route.permission() {
        operation["security"] = json!([{ "bearer": [permission.as_str()] }]);
        operation["description"] = format!("Needs the permission `{permission}`.").into();
    }
    operation
}

fn success(route: &Route) -> Value {
    match route.produces {
        Produces::Nothing => json!({ "description": "done" }),
        Produces::Json(schema) | Produces::JsonForAnybody(schema) => {
            json!({ "description": "done", "content": { "application/json": { "schema": reference(schema) } } })
        }
        Produces::Jwt => json!({ "description": "the bare token", "content": { "text/plain": { "schema": { "type": "string" } } } }),
    }
}

fn refusals(route: &Route) -> Vec<(u16, &'static str)> {
    let mut refusals = Vec::new();
    if route.body_bytes_max() > 0 || !route.query.is_empty() {
        refusals.push((400, "the request is not understood"));
    }
    match route.access {
        Access::Anybody(_) => {}
        Access::Attested(_) => {
            refusals.extend([(401, "the evidence or the policy does not permit it"), (429, "too many refused requests")]);
        }
        Access::Administrator(..) => refusals.push((401, "no valid bearer token, or the permission is missing")),
    }
    if route.path.contains(ID) {
        refusals.push((404, "there is no such record"));
    }
    if route.accept().is_some() || route.content_type().is_some() {
        refusals.push((415, "a header is not exactly what is needed"));
    }
    if route.body_bytes_max() > 0 {
        refusals.extend([(408, "the body did not arrive in time"), (413, "the body is too large")]);
    }
    refusals
}

fn parameters(route: &Route) -> Value {
    let id = json!({ "name": "id", "in": "path", "required": true, "schema": { "type": "string", "format": "uuid" } });
    let query = |name: &&str| json!({ "name": name, "in": "query", "required": false, "schema": { "type": "string" } });
    route.path.contains(ID).then_some(id).into_iter().chain(route.query.iter().chain(route.optional_query).map(query)).collect()
}

fn request_body(route: &Route) -> Option<Value> {
    let (required, schema) = match route.consumes {
        Consumes::Nothing => return None,
        Consumes::Json { schema, .. } => (true, reference(schema)),
        Consumes::OptionalJson { schema, .. } => (false, reference(schema)),
        Consumes::Pem { .. } => (true, json!({ "type": "string" })),
    };
    Some(json!({ "required": required, "content": { route.content_type()?: { "schema": schema } } }))
}

fn reference(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

fn object(properties: &Value) -> Value {
    json!({ "type": "object", "properties": properties })
}

fn list(entry: &Value) -> Value {
    json!({ "type": "array", "items": entry })
}

fn schemas() -> Value {
    let text = || json!({ "type": "string" });
    let secret = || json!({ "type": "string", "format": "password" });
    let base64 = || json!({ "type": "string", "contentEncoding": "base64" });
    let number = || json!({ "type": "integer" });
    let uuid = || json!({ "type": "string", "format": "uuid" });
    let time = || json!({ "type": "string", "format": "date-time" });
    let nonce = || object(&json!({ "val": base64(), "iat": base64(), "signature": base64() }));
    let evidence = || object(&json!({ "quote": base64(), "user_data": base64(), "event_log": base64(), "nonce": reference("Nonce") }));
    json!({
        "Document": { "type": "object" },
        "Error": object(&json!({ "error": text(), "reason": text() })),
        "Version": object(&json!({ "name": text(), "version": text(), "gitHash": text(), "buildDate": text() })),
        "Login": object(&json!({ "username": text(), "password": secret() })),
        "UserRequest": object(&json!({ "username": text(), "password": secret(), "permissions": list(&text()) })),
        "User": object(&json!({ "id": uuid(), "created_at": time(), "updated_at": time(), "username": text(), "permissions": list(&text()) })),
        "Users": list(&reference("User")),
        "PolicyBlock": object(&json!({ "attributes": { "type": "object" }, "policy_ids": list(&uuid()) })),
        "Policy": object(&json!({
            "id": uuid(), "created_at": time(), "sgx": reference("PolicyBlock"), "tdx": reference("PolicyBlock"),
            "attestation_type": { "oneOf": [{ "enum": ["SGX", "TDX"] }, list(&text())] },
        })),
        "Policies": list(&reference("Policy")),
        "KeyInformation": object(&json!({
            "algorithm": text(), "key_length": number(), "curve_type": text(), "key_data": base64(), "kmip_key_id": text(),
        })),
        "KeyRequest": object(&json!({ "key_information": reference("KeyInformation"), "transfer_policy_id": uuid() })),
        "KeyUpdate": object(&json!({ "transfer_policy_id": uuid() })),
        "KeyInfo": object(&json!({ "algorithm": text(), "key_length": number(), "curve_type": text(), "kmip_key_id": text() })),
        "Key": object(&json!({
            "id": uuid(), "key_info": reference("KeyInfo"), "transfer_policy_id": uuid(), "transfer_link": text(), "created_at": time(),
        })),
        "Keys": list(&reference("Key")),
        "ExportedKey": object(&json!({ "wrapped_key": base64() })),
        "Nonce": nonce(),
        "Evidence": evidence(),
        "TransferRequest": object(&json!({
            "attestation_token": text(), "quote": base64(), "user_data": base64(), "event_log": base64(), "nonce": reference("Nonce"),
            "tdx": reference("Evidence"), "sgx": reference("Evidence"),
        })),
        "WrappedKey": object(&json!({
            "wrapped_key": base64(), "wrapped_swk": base64(), "kms_wrapped_key": base64(), "wrapping": { "const": "RSA_OAEP_SHA256_AES_KWP" },
        })),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_in_the_document_and_every_reference_leads_somewhere() {
        let document = document();
        for route in ROUTES.iter() {
            let operation = &document["paths"][route.path][route.method.as_str().to_ascii_lowercase()];
            assert_eq!(operation["summary"], route.summary);
            assert!(operation["responses"][route.status.to_string()].is_object(), "{} {}", route.method, route.path);
            assert_eq!(operation["security"].is_array(), route.permission().is_some(), "{} {}", route.method, route.path);
            assert_eq!(operation["requestBody"].is_object(), route.content_type().is_some(), "{} {}", route.method, route.path);
        }
        let text = document.to_string();
        let references = text.split(r##""$ref":"#/components/schemas/"##).skip(1).map(|rest| rest.split('"').next().unwrap());
        for name in references {
            assert!(document["components"]["schemas"][name].is_object(), "{name}");
        }
        let operations: usize = document["paths"].as_object().unwrap().values().map(|path| path.as_object().unwrap().len()).sum();
        assert_eq!(operations, ROUTES.len());
    }
}
