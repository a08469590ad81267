//! What the description of the native API promises, held by a program that reads it and tries what it can think of.

use std::{
    env, fs,
    process::{Command, Stdio},
};

use federation_tests::{Engine, Server};

/// What must be true of every answer.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance";

/// What would end the session that everything is asked with.
const NOT_TRIED: &str = "^/api/v1/(auth/|realtime|users/me|admin/users)";

#[tokio::test(flavor = "multi_thread")]
async fn the_description_is_kept() {
    let Some(python) = env::var_os("COMITY_TEST_SCHEMATHESIS") else {
        return eprintln!(
            "SKIPPED: COMITY_TEST_SCHEMATHESIS isn't set; federation-tests/run installs it where there is Python"
        );
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    // Without other servers, so that none that can't be reached is taken for a fault of this one.
    let server = Server::builder(&Engine::Sqlite).set("federation", "enabled", false).start().await;
    let admin = server.admin().await;
    let description = admin.get("/api/v1/openapi.json").await.ok();
    let file = folder.path().join("openapi.json");
    fs::write(&file, description.to_string()).expect("it can be written");
    let run = |module: &str, arguments: &[&str]| {
        let mut command = Command::new(&python);
        command.args(["-m", module]).args(arguments).current_dir(folder.path()).stdin(Stdio::null());
        tokio::task::block_in_place(|| {
            let output = command.output().expect("Python runs");
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            let said = format!("{said}{}", String::from_utf8_lossy(&output.stderr));
            assert!(output.status.success(), "{module}: {said}");
        });
    };
    let file = file.to_str().expect("the path is a text");
    run("openapi_spec_validator", &[file]);

    let (url, token) = (server.url(), admin.token.as_ref().expect("they are logged in"));
    let authorization = format!("Authorization: Bearer {token}");
    let mut arguments = vec!["run", file, "--url", &url, "-H", &authorization, "--checks", CHECKS, "--seed", "7"];
    arguments.extend(["--max-examples", "2", "--phases", "coverage,fuzzing", "--continue-on-failure", "--no-color"]);
    arguments.extend(["--exclude-path-regex", NOT_TRIED, "--max-time", "60"]);
    run("schemathesis.cli", &arguments);
    let log = server.log();
    assert!(!log.contains("panicked"), "a handler panicked: {log}");
}
