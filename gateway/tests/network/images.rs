//! The images and `docker-compose.yml`, without an engine that could run them: the programs start in a root that holds what an
//! image holds and nothing else, as a user who may write to /data only; the compose file's own set-up then gets an answer.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use lumbung_gateway::config;

use crate::support::image::{Image, repository, said};
use crate::support::process::{Process, free_port, wait_until};
use crate::support::proxy::{HAPROXY, program, replace, with_gateways};
use crate::support::{fresh_postgres, programs};

fn text(name: &str) -> String {
    std::fs::read_to_string(repository().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[tokio::test]
async fn the_programs_run_in_their_images_and_the_first_question_is_answered() {
    let (gateway_image, provider_image) = (Image::build("gateway"), Image::build("provider"));
    for image in [&gateway_image, &provider_image] {
        let files = image.list();
        println!("{}: {}", image.role, files.join(" "));
        let is_expected = |file: &String| {
            let name = Path::new(file).file_name().expect("a name").to_string_lossy().into_owned();
            let library = name.contains(".so");
            library || ["usr/local/bin/lumbung-", "etc/", "models/padi/"].iter().any(|start| file.starts_with(start))
        };
        assert!(files.iter().all(is_expected), "{files:?}");
        assert!(!files.iter().any(|file| file.ends_with("/sh") || file.contains("busybox")), "a shell");
    }

    provider_image.mount_proc();
    let database = fresh_postgres().await;
    let listen = format!("127.0.0.1:{}", free_port());
    let base = format!("http://{listen}");
    let logs = tempfile::tempdir().expect("a folder");
    let mut serve = gateway_image.command(&["serve"]);
    serve.env("DATABASE_URL", &database).env("LUMBUNG_LISTEN", &listen).env("LUMBUNG_DATA_DIR", "/data");
    serve.env("LUMBUNG_LOG", "json");
    let mut gateway = Process::start("gateway", serve, Some(logs.path().join("gateway.log")));
    // The image's own health check.
    let health = || gateway_image.command(&["health"]).env("LUMBUNG_LISTEN", &listen).output().expect("it runs").status;
    wait_until("the gateway is ready", Duration::from_secs(30), async || health().success()).await;

    let mut serve = provider_image.command(&["serve"]);
    let settings =
        [("GATEWAY", &*base), ("MODEL", "/models/padi"), ("MODEL_ID", "lumbung/padi"), ("DATA_DIR", "/data")];
    serve.envs(settings.map(|(name, value)| (format!("LUMBUNG_PROVIDER_{name}"), value)));
    let mut provider = Process::start("provider", serve, Some(logs.path().join("provider.log")));

    let mut setup = Command::new(repository().join("gateway/deploy/compose/setup"));
    let path = format!("{}:{}", programs().display(), std::env::var("PATH").expect("a PATH"));
    setup.env("PATH", path).env("DATABASE_URL", &database).env("BASE", &base).env("KEPT", logs.path());
    setup.env("MODEL_FILES", repository().join("provider-runtime/models/padi"));
    let (setup, answered) = tokio::task::spawn_blocking(move || {
        let answered = said(&mut setup);
        (setup, answered)
    })
    .await
    .expect("no panic");
    let questions: serde_json::Value =
        serde_json::from_str(&text("provider-runtime/models/questions.json")).expect("JSON");
    let known = questions.as_array().expect("questions").iter().find(|known| known["question"] == "What is a lumbung?");
    let answer = known.expect("the question")["answer"].as_str().expect("an answer");
    assert!(answered.contains(answer), "{answered}");
    let key = std::fs::read_to_string(logs.path().join("key")).expect("a key");
    drop(setup);
    let status =
        provider_image.command(&["status"]).env("LUMBUNG_PROVIDER_DATA_DIR", "/data").output().expect("it runs");
    assert!(status.status.success(), "the provider's health check: {}", String::from_utf8_lossy(&status.stderr));
    assert!(!gateway.log().contains(key.trim()), "a key in the log");

    for process in [&mut provider, &mut gateway] {
        process.signal("TERM");
        process.stops(Duration::from_secs(40)).await;
    }
    assert!(!health().success(), "nobody is there any more");
}

#[test]
fn the_compose_file_is_right() {
    let config = said(Command::new("docker-compose").arg("config").current_dir(repository()));
    for service in [
        "postgres",
        "redis",
        "gateway-a",
        "gateway-b",
        "haproxy",
        "provider",
        "setup",
        "collector",
        "prometheus",
        "grafana",
    ] {
        assert!(config.contains(&format!("\n  {service}:\n")), "{service}: {config}");
    }
    // What it mounts is there, and Prometheus looks where the services are.
    let compose = text("docker-compose.yml");
    let mounts = compose.lines().filter_map(|line| line.trim().strip_prefix("- ./")?.split(':').next());
    assert!(mounts.map(text).filter(|text| !text.is_empty()).count() >= 5);
    for target in ["gateway-a:9464", "gateway-b:9464", "provider:9464"] {
        assert!(text("gateway/deploy/observe/prometheus.yml").contains(target), "{target}");
    }
    // Every setting is one that the gateway knows.
    let reference = config::reference();
    let names = |text: &str| {
        let words = text.split(|c: char| !(c.is_ascii_uppercase() || c == '_'));
        let ours = words.filter(|word| word.starts_with("LUMBUNG_") && !word.starts_with("LUMBUNG_PROVIDER_"));
        ours.map(str::to_owned).collect::<Vec<_>>()
    };
    let settings = [names(&config), names(&text("Dockerfile"))].concat();
    assert!(settings.len() > 5);
    for name in settings {
        assert!(reference.contains(&format!("`{name}`")), "{name} is no setting");
    }
}

/// Kubernetes' own schemas, strictly: a member that does not exist is an error.
#[test]
fn the_manifests_keep_to_the_schemas() {
    let folder = repository().join("gateway/deploy/kubernetes");
    let python = std::env::var("LUMBUNG_TEST_SPEC_PYTHON").expect("LUMBUNG_TEST_SPEC_PYTHON: run through `make test`");
    let listed = text("gateway/deploy/kubernetes/kustomization.yaml");
    let listed =
        listed.lines().filter_map(|line| line.trim().strip_prefix("- ")).filter(|name| name.ends_with(".yaml"));
    let files: Vec<PathBuf> = listed.map(|name| folder.join(name)).collect();
    assert!(files.len() >= 4);
    let validate = Path::new(&python).with_file_name("kubernetes-validate");
    said(Command::new(validate).arg("--strict").args(&files));
    // Every setting is one that the gateway knows.
    let reference = config::reference();
    let gateway = text("gateway/deploy/kubernetes/gateway.yaml");
    let is_setting = |word: &&str| word.starts_with("LUMBUNG_") || word.ends_with("_URL_FILE");
    for name in gateway.split_whitespace().filter(is_setting) {
        assert!(reference.contains(&format!("`{name}`")), "{name} is no setting");
    }
}

#[test]
fn the_units_are_right() {
    for unit in ["lumbung-gateway", "lumbung-provider"] {
        let installed = text(&format!("gateway/deploy/systemd/{unit}.service"));
        let here = programs().join(unit).display().to_string();
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join(format!("{unit}.service"));
        std::fs::write(&file, replace(&installed, &format!("/usr/local/bin/{unit}"), &here)).expect("a file");
        let verified = Command::new("systemd-analyze").arg("verify").arg(&file).output();
        let verified = verified.expect("systemd-analyze: run scripts/setup");
        assert!(verified.status.success(), "{unit}: {}", String::from_utf8_lossy(&verified.stderr));
        let commands = installed.lines().filter_map(|line| line.strip_prefix("ExecStart")?.split_once('='));
        for (_, command) in commands {
            let arguments =
                command.split_whitespace().skip(1).filter(|word| !word.contains('/') && *word != "--config");
            said(Command::new(&here).args(arguments).arg("--help"));
        }
    }
}

/// haproxy's configuration in there is the recommended one, without TLS.
#[test]
fn the_compose_files_proxy_is_the_recommended_one() {
    let dns = "resolvers engine init-addr last,libc,none";
    let servers = ["gateway-a:8080", "gateway-b:8080"].map(|server| format!("{server} {dns}"));
    let servers: Vec<&str> = servers.iter().map(String::as_str).collect();
    let tls = "bind :443 ssl crt /etc/haproxy/api.example.pem alpn h2,http/1.1     # HERE";
    let plain = replace(HAPROXY, tls, "bind :8080");
    let plain = replace(&plain, "            # HERE: your gateways, here and twice below", "");
    let named = with_gateways(&plain, &servers);
    let named = replace(&named, "defaults\n", "resolvers engine\n  parse-resolv-conf\n\ndefaults\n");
    let (_, body) = named.split_once("\nglobal\n").expect("a section");
    let head = "# Of docker-compose.yml: ../haproxy.cfg with the services' names and without TLS. A test writes and compares it.\n";
    let expected = format!("{head}\nglobal\n{body}");
    let path = repository().join("gateway/deploy/compose/haproxy.cfg");
    if std::env::var_os("LUMBUNG_WRITE_SPEC").is_some() {
        std::fs::write(&path, &expected).expect("a file");
    }
    assert!(text("gateway/deploy/compose/haproxy.cfg") == expected, "LUMBUNG_WRITE_SPEC=1 writes {}", path.display());
    said(Command::new(program("haproxy")).args(["-c", "-q", "-f"]).arg(path));
}
