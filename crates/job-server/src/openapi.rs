use operations_contract::{ErrorBody, Info, Job, JobEvent, JobList, JobResponse, JobState, OperationKind, Readiness};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Value, json};

/// The API's description, OpenAPI 3.1, of a server that serves some of the operations. Schemas come from the types
/// that are really read and written.
pub fn openapi(title: &str, version: &str, serves: impl Fn(OperationKind) -> bool) -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut schemas = settings.into_generator();
    let operations: Vec<_> = OperationKind::ALL
        .iter()
        .filter(|kind| serves(**kind))
        .map(|kind| Value::from(kind.schema(&mut schemas)))
        .collect();
    let paths = paths(&mut schemas);
    let mut components = schemas.take_definitions(true);
    components.insert("Operation".to_owned(), json!({"oneOf": operations}));
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": title,
            "version": version,
            "description": "Jobs: POST an operation, then listen to its events or ask for the job.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"apiKey": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"apiKey": []}],
    })
}

fn paths(schemas: &mut SchemaGenerator) -> Value {
    let error = |description: &str, schemas: &mut SchemaGenerator| answer::<ErrorBody>(description, schemas);
    let id = json!({"name": "id", "in": "path", "required": true, "schema": {"type": "string"}});
    let unknown = error("There is no such job (`not_found`), or no longer (`expired`).", schemas);
    let states = JobState::ALL.map(JobState::as_str);
    json!({
        "/v1/jobs": {
            "post": {
                "operationId": "createJob",
                "summary": "Starts a job, whether or not anybody listens.",
                "parameters": [
                    {"name": "Idempotency-Key", "in": "header", "schema": {"type": "string", "maxLength": 255},
                     "description": "Asked again under the same key with the same body, the answer is the same job."},
                ],
                "requestBody": {
                    "required": true,
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Operation"}}},
                },
                "responses": {
                    "202": answer::<JobResponse>("The job is admitted.", schemas),
                    "400": error("Malformed, or an operation that is not served here.", schemas),
                    "401": error("No API key, or a wrong one.", schemas),
                    "403": error("A foreign Host or Origin.", schemas),
                    "404": error("No such model.", schemas),
                    "409": error("The worker has loaded another model, or the Idempotency-Key came with another body.", schemas),
                    "413": error("The body or an image in it is too large.", schemas),
                    "415": error("Not JSON.", schemas),
                    "422": error("Out of range, or nothing that the model can do.", schemas),
                    "429": error("The queue is full; Retry-After says when to try again.", schemas),
                    "503": error("Nothing can serve it now.", schemas),
                },
            },
            "get": {
                "operationId": "listJobs",
                "summary": "Jobs, newest first, without their results.",
                "parameters": [
                    {"name": "state", "in": "query", "schema": {"type": "string", "enum": states}},
                    {"name": "limit", "in": "query",
                     "schema": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}},
                ],
                "responses": {"200": answer::<JobList>("The jobs.", schemas)},
            },
        },
        "/v1/jobs/{id}": {
            "parameters": [id],
            "get": {
                "operationId": "getJob",
                "summary": "The job as it stands.",
                "responses": {"200": answer::<Job>("The job.", schemas), "404": unknown},
            },
            "delete": {
                "operationId": "cancelJob",
                "summary": "Cancels the job; asking twice is no error.",
                "responses": {"200": answer::<Job>("The job as it stands.", schemas), "404": unknown},
            },
        },
        "/v1/jobs/{id}/stream": {
            "parameters": [
                id,
                {"name": "Last-Event-ID", "in": "header", "schema": {"type": "integer", "minimum": 0}},
            ],
            "get": {
                "operationId": "streamJob",
                "summary": "The job's events, from the first or from the one after Last-Event-ID, to its last.",
                "responses": {
                    "200": {
                        "description": "Server-sent events; the data of each is a JobEvent.",
                        "content": {"text/event-stream": {"schema": schema::<JobEvent>(schemas)}},
                    },
                    "204": {"description": "Last-Event-ID is the job's last event: there is nothing more."},
                    "400": error("Last-Event-ID is not the number of an event.", schemas),
                    "404": unknown,
                },
            },
        },
        "/v1/jobs/{id}/images/{n}": {
            "parameters": [
                id,
                {"name": "n", "in": "path", "required": true, "schema": {"type": "integer", "minimum": 0}},
            ],
            "get": {
                "operationId": "getPicture",
                "summary": "A picture of a job that is complete.",
                "responses": {
                    "200": {"description": "The picture.", "content": {"image/png": {}}},
                    "404": unknown,
                    "409": error("The job is not complete.", schemas),
                },
            },
        },
        "/v1/info": {"get": {
            "operationId": "getInfo",
            "summary": "Version, device, threads, model, memory.",
            "responses": {"200": answer::<Info>("What the server is.", schemas)},
        }},
        "/health": {"get": {
            "operationId": "health",
            "summary": "Whether the server lives.",
            "security": [],
            "responses": {"200": {"description": "It does.", "content": {"application/json": {}}}},
        }},
        "/ready": {"get": {
            "operationId": "ready",
            "summary": "Whether the server can serve.",
            "security": [],
            "responses": {
                "200": answer::<Readiness>("It can.", schemas),
                "503": answer::<Readiness>("It cannot, and why.", schemas),
            },
        }},
        "/metrics": {"get": {
            "operationId": "metrics",
            "summary": "Counters for Prometheus.",
            "responses": {"200": {"description": "Prometheus' text format.", "content": {"text/plain": {}}}},
        }},
        "/openapi.json": {"get": {
            "operationId": "openapi",
            "summary": "This description.",
            "responses": {"200": {"description": "OpenAPI 3.1.", "content": {"application/json": {}}}},
        }},
    })
}

fn answer<T: JsonSchema>(description: &str, schemas: &mut SchemaGenerator) -> Value {
    json!({"description": description, "content": {"application/json": {"schema": schema::<T>(schemas)}}})
}

fn schema<T: JsonSchema>(schemas: &mut SchemaGenerator) -> Value {
    schemas.subschema_for::<T>().into()
}
