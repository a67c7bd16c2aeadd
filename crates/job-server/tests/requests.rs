//! What is asked over a real socket, and above all what is refused.

#![allow(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

mod common;

use common::TestServer;
use job_server::{Ending, RegistryLimits};
use operations_contract::{BODY_BYTES, ErrorBody, JobList};
use reqwest::Method;
use serde_json::{Value, json};
use std::time::Duration;

fn paint() -> Value {
    json!({"operation": "image_generation", "prompt": "a"})
}

async fn refused(response: reqwest::Response, status: u16, code: &str) -> Value {
    assert_eq!(response.status(), status);
    assert_eq!(response.headers()["content-type"], "application/json");
    let body: Value = response.json().await.unwrap();
    serde_json::from_value::<ErrorBody>(body.clone()).unwrap();
    assert_eq!(body["error"]["code"], code, "{body}");
    body["error"].clone()
}

#[tokio::test]
async fn a_full_queue_says_so_and_when_to_come_back() {
    let server = TestServer::with(RegistryLimits::in_memory(2), &[]).await;
    let (_, first) = server.job().await;
    let (_, _second) = server.job().await;
    let response = server.post(&paint()).await;
    assert_eq!(response.headers()["retry-after"], "5");
    refused(response, 429, "queue_full").await;
    first.finish(Ending::Cancelled);
    server.job().await;
}

#[tokio::test]
async fn a_request_that_comes_twice_makes_one_job() {
    let server = TestServer::with(RegistryLimits::in_memory(1), &[]).await;
    let ask = async |key: &str, body: Value| {
        let request = server.client.post(format!("{}/v1/jobs", server.url)).header("idempotency-key", key);
        request.json(&body).send().await.unwrap()
    };
    let (first, second) = tokio::join!(ask("a", paint()), ask("a", paint()));
    assert_eq!((first.status(), second.status()), (202.try_into().unwrap(), 202.try_into().unwrap()));
    let (first, second): (Value, Value) = (first.json().await.unwrap(), second.json().await.unwrap());
    assert_eq!(first["job_id"], second["job_id"]);
    let other = json!({"operation": "image_generation", "prompt": "b"});
    assert_eq!(refused(ask("a", other.clone()).await, 409, "conflict").await["param"], "Idempotency-Key");
    refused(ask("b", other).await, 429, "queue_full").await;
    assert_eq!(refused(ask(&"k".repeat(256), paint()).await, 400, "invalid_request").await["param"], "Idempotency-Key");
    let jobs: JobList = server.get("/v1/jobs").await.json().await.unwrap();
    assert_eq!(jobs.jobs.len(), 1);
}

#[tokio::test]
async fn every_error_is_json() {
    let server = TestServer::start().await;
    let jobs = format!("{}/v1/jobs", server.url);
    refused(server.get("/nothing").await, 404, "not_found").await;
    refused(server.get("/v1/jobs/job-1/nothing").await, 404, "not_found").await;
    refused(server.get("/v1/jobs/job-1").await, 404, "not_found").await;
    refused(server.get("/v1/jobs/job-1/stream").await, 404, "not_found").await;
    refused(server.get("/v1/jobs/%FF").await, 400, "invalid_request").await;
    refused(server.get("/v1/jobs?state=done").await, 400, "invalid_request").await;
    refused(server.get("/v1/jobs?limit=0").await, 400, "invalid_request").await;
    refused(server.get("/v1/jobs?offset=1").await, 400, "invalid_request").await;
    let put = server.client.request(Method::PUT, &jobs).send().await.unwrap();
    assert!(put.headers()["allow"].to_str().unwrap().contains("POST"));
    refused(put, 405, "method_not_allowed").await;
    refused(server.client.delete(format!("{jobs}/job-1")).send().await.unwrap(), 404, "not_found").await;
    let form = server.client.post(&jobs).body("a=b").header("content-type", "application/x-www-form-urlencoded");
    refused(form.send().await.unwrap(), 415, "unsupported_media_type").await;
    let multipart = server.client.post(&jobs).body("--x--").header("content-type", "multipart/form-data; boundary=x");
    refused(multipart.send().await.unwrap(), 415, "unsupported_media_type").await;
    let broken = server.client.post(&jobs).body("{").header("content-type", "application/json");
    refused(broken.send().await.unwrap(), 400, "invalid_request").await;
}

#[tokio::test]
async fn a_request_is_refused_before_there_is_a_job() {
    let server = TestServer::start().await;
    let error = refused(server.post(&json!({"operation": "status"})).await, 400, "unsupported_operation").await;
    assert_eq!(error["param"], "operation");
    let wide = json!({"operation": "image_generation", "prompt": "a", "width": 500});
    let error = refused(server.post(&wide).await, 422, "invalid_request").await;
    assert_eq!(
        error,
        json!({
            "code": "invalid_request",
            "message": "width must be a multiple of 8, got 500",
            "param": "width",
        })
    );
    let typo = json!({"operation": "image_generation", "prompt": "a", "widht": 512});
    assert_eq!(refused(server.post(&typo).await, 400, "invalid_request").await["param"], "widht");
    let no_image = json!({"operation": "image_transform", "prompt": "a", "init_image": "A".repeat(100_000)});
    assert_eq!(refused(server.post(&no_image).await, 422, "invalid_request").await["param"], "init_image");
    assert_eq!(server.json("/v1/jobs").await, json!({"jobs": []}));
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_once_it_was_sent() {
    let server = TestServer::start().await;
    let request = server.client.post(format!("{}/v1/jobs", server.url)).header("content-type", "application/json");
    refused(request.body(vec![b' '; BODY_BYTES + 1]).send().await.unwrap(), 413, "payload_too_large").await;
    server.job().await;
}

#[tokio::test]
async fn a_panic_in_a_request_is_an_answer() {
    let server = TestServer::start().await;
    let operation = json!({"operation": "image_generation", "prompt": "panic"});
    refused(server.post(&operation).await, 500, "internal").await;
    server.job().await;
}

#[tokio::test]
async fn a_foreign_page_is_refused_unless_it_is_allowed() {
    let server = TestServer::start().await;
    let health = format!("{}/health", server.url);
    let foreign = server.client.get(&health).header("host", "evil.example").send().await.unwrap();
    refused(foreign, 403, "forbidden").await;
    let foreign = server.client.get(&health).header("origin", "https://evil.example").send().await.unwrap();
    assert_eq!(foreign.headers().get("access-control-allow-origin"), None);
    refused(foreign, 403, "forbidden").await;

    let page = "http://localhost:3000";
    let open = TestServer::with(RegistryLimits::in_memory(1), &[page.to_owned()]).await;
    let jobs = format!("{}/v1/jobs", open.url);
    let preflight = open.client.request(Method::OPTIONS, &jobs).header("origin", page);
    let preflight = preflight.header("access-control-request-method", "POST").send().await.unwrap();
    assert_eq!(
        (preflight.status().as_u16(), &preflight.headers()["access-control-allow-origin"]),
        (200, &page.parse().unwrap())
    );
    let asked = open.client.post(&jobs).header("origin", page).json(&paint()).send().await.unwrap();
    assert_eq!(asked.status(), 202);
    assert_eq!(asked.headers()["access-control-allow-origin"], page);
}

#[tokio::test]
async fn jobs_are_listed_newest_first() {
    let server = TestServer::start().await;
    let (first, job) = server.job().await;
    let (second, _waiting) = server.job().await;
    job.started(Some("tiny-scenes".into()), None, 1);
    job.progress(3, 20, None, None);
    let list: JobList = server.get("/v1/jobs").await.json().await.unwrap();
    assert_eq!(list.jobs.iter().map(|job| &job.job_id).collect::<Vec<_>>(), [&second, &first]);
    let running = server.json("/v1/jobs?state=running&limit=5").await;
    assert_eq!(running["jobs"][0]["job_id"], first);
    assert_eq!(running["jobs"][0]["progress"], json!({"step": 3, "total": 20}));
    assert_eq!(running["jobs"].as_array().unwrap().len(), 1);
    assert_eq!(server.json("/v1/jobs?limit=1").await["jobs"].as_array().unwrap().len(), 1);
    let waiting = server.json(&format!("/v1/jobs/{second}")).await;
    assert_eq!((&waiting["state"], &waiting["position"]), (&json!("queued"), &json!(1)));
}

#[tokio::test]
async fn finished_jobs_are_forgotten_and_their_ids_are_not() {
    let limits = RegistryLimits { finished: 1, ..RegistryLimits::in_memory(8) };
    let server = TestServer::with(limits, &[]).await;
    let (first, job) = server.job().await;
    job.finish(Ending::Cancelled);
    let (second, job) = server.job().await;
    job.finish(Ending::Cancelled);
    refused(server.get(&format!("/v1/jobs/{first}")).await, 404, "expired").await;
    refused(server.get(&format!("/v1/jobs/{first}/stream")).await, 404, "expired").await;
    assert_eq!(server.get(&format!("/v1/jobs/{second}")).await.status(), 200);

    let limits = RegistryLimits { age: Duration::ZERO, ..RegistryLimits::in_memory(8) };
    let server = TestServer::with(limits, &[]).await;
    let (id, job) = server.job().await;
    job.finish(Ending::Cancelled);
    tokio::time::sleep(Duration::from_millis(2)).await;
    refused(server.get(&format!("/v1/jobs/{id}")).await, 404, "expired").await;
}

#[tokio::test]
async fn a_server_says_what_it_is() {
    let server = TestServer::start().await;
    assert_eq!(server.json("/health").await, json!({"status": "ok"}));
    let ready = server.get("/ready").await;
    assert_eq!(ready.status(), 503);
    assert_eq!(ready.json::<Value>().await.unwrap(), json!({"ready": false, "reason": "the model loads"}));
    assert_eq!(server.json("/v1/info").await["version"], "0.0.0");
    let (_, job) = server.job().await;
    job.finish(Ending::Cancelled);
    let metrics = server.get("/metrics").await.text().await.unwrap();
    for line in ["rbee_jobs_admitted_total 1", "rbee_jobs_finished_total{state=\"cancelled\"} 1", "rbee_ready 0"] {
        assert!(metrics.lines().any(|found| found == line), "{line} in\n{metrics}");
    }
}

#[tokio::test]
async fn the_description_has_what_is_served_and_every_reference_in_it_leads_somewhere() {
    let server = TestServer::start().await;
    let description = server.json("/openapi.json").await;
    assert_eq!(description["openapi"], "3.1.0");
    let schemas = &description["components"]["schemas"];
    let operations = schemas["Operation"]["oneOf"].as_array().unwrap();
    assert_eq!(operations.len(), 2);
    let generation = &operations[0]["properties"];
    assert_eq!(generation["operation"]["const"], "image_generation");
    assert_eq!((&generation["steps"]["maximum"], &generation["width"]["multipleOf"]), (&json!(150), &json!(8)));
    assert_eq!(operations[0]["required"], json!(["operation", "prompt"]));
    assert_eq!(operations[0]["additionalProperties"], false);
    let text = description.to_string();
    let references: Vec<&str> = text.split("\"$ref\":\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    assert!(references.len() > 10);
    for reference in references {
        let name = reference.strip_prefix("#/components/schemas/").unwrap();
        assert!(schemas.get(name).is_some(), "{reference}");
    }
    for path in ["/v1/jobs", "/v1/jobs/{id}", "/v1/jobs/{id}/stream", "/v1/jobs/{id}/images/{n}", "/metrics"] {
        assert!(description["paths"].get(path).is_some(), "{path}");
    }
}
