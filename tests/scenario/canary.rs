//! Canaries: secrets whose values nothing else holds. Everything that there is runs with them, processes are crashed,
//! and then every file and every output is searched for them, in clear and in the usual disguises.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::Signal;
use tests::cluster::Cluster;
use tests::wait;

/// Values with letters that URLs and JSON escape; long enough that no chance brings them anywhere.
const CANARIES: [&str; 3] =
    ["canary+one/7f3a9c&\"quoted\"=Zq", "canary two%9d1e\\back?Xw", "canary/three~5b8c<tag>Yv"];
/// Passwords: the one of a user, the one that it is changed to, and one that is wrong.
const PASSWORDS: [&str; 3] =
    ["canary four&6e2b\"long\" enough", "canary+five/8c1d%long enough", "canary six?3a7f~long enough"];
/// What a vault is shown, and what it holds.
const VAULT_TOKEN: &str = "hvs.canary-seven-4d9e2f";
const VAULT_VALUE: &str = "canary/eight 1f6c&'quoted' Tm";

/// One way in which a value could stand somewhere.
struct Needle {
    form: String,
    bytes: Vec<u8>,
}

fn hex(bytes: &[u8], is_upper: bool) -> Vec<u8> {
    let digits =
        bytes.iter().map(|byte| if is_upper { format!("{byte:02X}") } else { format!("{byte:02x}") });
    digits.collect::<String>().into_bytes()
}

/// Returns what every Base64 of a text holds in which the value stands so many bytes behind the beginning: the letters
/// that do not depend on its neighbours.
fn base64(bytes: &[u8], offset: usize, is_url: bool) -> Vec<u8> {
    let tail: &[u8; 2] = if is_url { b"-_" } else { b"+/" };
    let alphabet: Vec<u8> = (b'A'..=b'Z').chain(b'a'..=b'z').chain(b'0'..=b'9').chain(*tail).collect();
    let padded = [&[0; 2][..offset], bytes].concat();
    let mut letters = Vec::new();
    for group in padded.chunks_exact(3) {
        let bits = u32::from(group[0]) << 16 | u32::from(group[1]) << 8 | u32::from(group[2]);
        letters.extend([18, 12, 6, 0].map(|shift| alphabet[(bits >> shift & 63) as usize]));
    }
    // The first letters hold bits of what stands before the value.
    letters.split_off(if offset == 0 { 0 } else { offset + 1 })
}

fn percent(bytes: &[u8]) -> Vec<u8> {
    let escape = |byte: &u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(*byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    bytes.iter().map(escape).collect::<String>().into_bytes()
}

fn needles<'a>(canaries: impl Iterator<Item = &'a str>) -> Vec<Needle> {
    let mut needles = Vec::new();
    for canary in canaries {
        let bytes = canary.as_bytes();
        let mut push =
            |form: &str, bytes: Vec<u8>| needles.push(Needle { form: format!("{form} of {canary}"), bytes });
        push("raw", bytes.to_vec());
        push("half", bytes[..bytes.len() / 2].to_vec());
        push("hex", hex(bytes, false));
        push("upper hex", hex(bytes, true));
        push("URL", percent(bytes));
        push("JSON", serde_json::to_string(canary).unwrap().trim_matches('"').as_bytes().to_vec());
        push("debug", format!("{canary:?}").trim_matches('"').as_bytes().to_vec());
        let list: Vec<String> = bytes.iter().map(ToString::to_string).collect();
        push("list", list.join(",").into_bytes());
        push("spaced list", list.join(", ").into_bytes());
        for offset in 0..3 {
            push("base64", base64(bytes, offset, false));
            push("base64 for URLs", base64(bytes, offset, true));
        }
    }
    needles
}

fn files_below(directory: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            files_below(&entry.path(), found);
        } else if kind.is_file() {
            found.push(entry.path());
        }
    }
}

/// Returns what was found where.
fn search(needles: &[Needle], places: &[(String, Vec<u8>)]) -> Vec<String> {
    let mut found = Vec::new();
    for (place, content) in places {
        // One look for all: most places hold none of the first bytes.
        for needle in needles {
            if contains(content, &needle.bytes) {
                found.push(format!("{} in {place}", needle.form));
            }
        }
    }
    found
}

fn contains(content: &[u8], needle: &[u8]) -> bool {
    let first = needle[0];
    let mut from = 0;
    while let Some(at) = content[from..].iter().position(|byte| *byte == first) {
        from += at;
        if content[from..].starts_with(needle) {
            return true;
        }
        from += 1;
    }
    false
}

fn places_below(directories: &[PathBuf], without: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    directories.iter().for_each(|directory| files_below(directory, &mut files));
    files.retain(|file| file != without);
    files.into_iter().filter_map(|file| Some((file.display().to_string(), fs::read(&file).ok()?))).collect()
}

/// Runs `ctl`, and keeps all that it says.
fn run(cluster: &Cluster, words: &[&str], input: &[u8], said: &mut Vec<u8>) -> (Option<i32>, String) {
    let mut command = cluster.command();
    command
        .env("RUST_LOG", "trace")
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input).ok();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    said.extend_from_slice(&output.stdout);
    said.extend_from_slice(&output.stderr);
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Starts a vault of a few lines, which shows one value to who shows its token, and returns its address.
fn vault() -> std::net::SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // It ends with the test's process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut request = Vec::new();
            let mut piece = [0; 1024];
            while !request.windows(4).any(|window| window == b"\r\n\r\n") {
                match stream.read(&mut piece) {
                    Ok(count) if count > 0 => request.extend_from_slice(&piece[..count]),
                    Ok(_) | Err(_) => break,
                }
            }
            let request = String::from_utf8_lossy(&request).into_owned();
            let (status, body) = if !request.contains(VAULT_TOKEN) {
                ("403 Forbidden", r#"{"errors":["permission denied"]}"#.to_owned())
            } else if request.contains("/v1/secret/data/shop ") {
                ("200 OK", serde_json::json!({"data": {"data": {"key": VAULT_VALUE}}}).to_string())
            } else {
                ("404 Not Found", r#"{"errors":[]}"#.to_owned())
            };
            let length = body.len();
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}");
            stream.write_all(answer.as_bytes()).ok();
        }
    });
    address
}

/// Starts what does not run, with every line of the log and with core files allowed.
fn up(cluster: &Cluster) {
    let ctl = cluster.command();
    let mut shell = Command::new("/bin/sh");
    shell.env_clear().current_dir(cluster.cluster_directory()).stdin(Stdio::null());
    shell.envs(ctl.get_envs().filter_map(|(name, value)| Some((name, value?)))).env("RUST_LOG", "trace");
    shell.args(["-c", "ulimit -c unlimited 2>/dev/null; exec \"$0\" dev up --dir \"$1\""]);
    let status = shell.arg(ctl.get_program()).arg(cluster.cluster_directory()).output().unwrap();
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
}

#[test]
#[expect(clippy::too_many_lines, reason = "one story of everything that there is, in its order")]
fn a_canary_is_found_in_every_disguise_and_in_none_of_our_files_and_outputs() {
    let cluster = Cluster::start(2, 1);
    let names: Vec<String> = cluster.processes().keys().cloned().collect();
    names.iter().for_each(|name| cluster.kill(name));
    let token_file = cluster.path("vault.token");
    fs::write(&token_file, VAULT_TOKEN).unwrap();
    let settings = cluster.cluster_directory().join("coordinator-1/settings.toml");
    let vault = format!(
        "\n[vault.default]\naddress = \"http://{}\"\ntoken = \"${{file:{}}}\"\n",
        vault(),
        token_file.display()
    );
    fs::OpenOptions::new().append(true).open(settings).unwrap().write_all(vault.as_bytes()).unwrap();
    up(&cluster);
    let mut said = Vec::new();
    let mut ctl = |words: &[&str], input: &[u8], code: i32| {
        let (ended, stdout) = run(&cluster, words, input, &mut said);
        assert_eq!(ended, Some(code), "{words:?}: {stdout}\n{}", String::from_utf8_lossy(&said));
        stdout
    };

    let (source, copies) = (cluster.path("shop"), cluster.path("copies"));
    fs::create_dir(&source).unwrap();
    fs::create_dir(&copies).unwrap();
    fs::write(source.join("a.sql"), "eva@example.com\n".repeat(200_000)).unwrap();
    fs::write(source.join("packed.sql"), b"\x1f\x8b").unwrap();
    let planted = cluster.path("planted");
    fs::write(&planted, CANARIES[2]).unwrap();
    fs::set_permissions(&planted, PermissionsExt::from_mode(0o600)).unwrap();

    ctl(&["secret", "set", "mask"], CANARIES[0].as_bytes(), 0);
    ctl(&["secret", "rotate", "mask", "--output", "json"], CANARIES[1].as_bytes(), 0);
    ctl(&["secret", "set", "second", "--from-file", &planted.display().to_string()], b"", 0);
    ctl(&["secret", "set", "Bad Name"], CANARIES[0].as_bytes(), 2);
    ctl(&["secret", "rotate", "absent"], CANARIES[0].as_bytes(), 4);
    ctl(&["secret", "list"], b"", 0);
    ctl(&["secret", "list", "--output", "json"], b"", 0);

    let spec = |name: &str, key: &str| {
        let path = cluster.path(&format!("{name}.yaml"));
        let text = format!(
            "source: {{host: agent-1, paths: {{root: {}}}}}\ndestination: {{host: agent-2, paths: {{root: {}}}}}\n\
             transfer: {{bandwidth_limit: {}}}\n\
             sanitize: {{key: \"{key}\", files: [{{match: \"*.sql\", action: mask, find: email, with: key}}]}}\n",
            source.display(),
            copies.join(name).display(),
            if name == "cancelled" { "64KiB" } else { "1GiB" },
        );
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let id_of = |document: &str| {
        let document: serde_json::Value = serde_json::from_str(document).unwrap();
        document["id"].as_str().unwrap().to_owned()
    };
    // What cannot be masked is a finding: exit 7.
    let kept =
        id_of(&ctl(&["migrate", "-f", &spec("kept", "${secret:mask}"), "--yes", "--output", "json"], b"", 7));
    ctl(&["migrate", "-f", &spec("of-file", &format!("${{file:{}}}", planted.display())), "--yes"], b"", 7);
    ctl(&["migrate", "-f", &spec("absent", "${secret:absent}"), "--yes"], b"", 4);
    ctl(&["migrate", "-f", &spec("of-vault", "${vault:secret/shop#key}"), "--yes"], b"", 7);
    ctl(&["migrate", "-f", &spec("failed", "${vault:secret/absent#key}"), "--yes"], b"", 3);
    let cancelled = spec("cancelled", "${secret:second}");
    let cancelled =
        id_of(&ctl(&["migrate", "-f", &cancelled, "--yes", "--detach", "--output", "json"], b"", 0));
    ctl(&["cluster", "rotate-key"], b"", 0);
    ctl(&["cancel", &cancelled, "--yes"], b"", 0);
    ctl(&["verify", &kept, "--deep"], b"", 7);
    for format in ["html", "json", "markdown"] {
        ctl(&["report", &kept, "--format", format], b"", 0);
    }
    ctl(&["rollback", &kept, "--yes"], b"", 0);
    for words in [
        &["status", &kept, "--output", "json"][..],
        &["list"],
        &["host", "show", "agent-1", "--output", "json"],
        &["cluster", "status"],
        &["audit", "list", "--output", "json"],
        &["doctor"],
    ] {
        // What they find is not the question here, only what they say.
        run(&cluster, words, b"", &mut said);
    }

    // People, keys and tokens. What is shown once is in that one answer, which is not kept here.
    let shown_once = |words: &[&str], field: &str, said: &mut Vec<u8>| {
        let mut silent = Vec::new();
        let (code, answer) = run(&cluster, words, b"", &mut silent);
        assert_eq!(code, Some(0), "{words:?}");
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
        let text = answer[field].as_str().unwrap().to_owned();
        let secret = text.rsplit('.').next().unwrap().to_owned();
        // The daemons may say whatever they want of it, but not what it is; nor may what `ctl` says beside its answer.
        let quiet = String::from_utf8_lossy(&silent).replacen(&text, "", 1);
        said.extend_from_slice(quiet.replace(&text, "").as_bytes());
        (text, secret)
    };
    let json = ["--output", "json"];
    let key_words = [&json[..], &["key", "create", "--role", "viewer"]].concat();
    let (key, key_secret) = shown_once(&key_words, "key", &mut said);
    let (_, token_secret) =
        shown_once(&[&json[..], &["host", "enroll", "agent-9"]].concat(), "token", &mut said);
    let key_file = cluster.path("api.key");
    fs::write(&key_file, &key).unwrap();
    fs::set_permissions(&key_file, PermissionsExt::from_mode(0o600)).unwrap();
    let by_key = ["--api-key-file", &key_file.display().to_string(), "whoami"].map(str::to_owned);
    assert_eq!(run(&cluster, &by_key.each_ref().map(String::as_str), b"", &mut said).0, Some(0));
    let (code, made) = run(
        &cluster,
        &[&json[..], &["user", "create", "eve", "--role", "viewer"]].concat(),
        PASSWORDS[0].as_bytes(),
        &mut said,
    );
    assert_eq!(code, Some(0), "{made}");
    let made: serde_json::Value = serde_json::from_str(&made).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let contexts = cluster.path("eves.toml").display().to_string();
    let (digest, address) =
        (text(&made["login"]["ca_digest"]), text(&made["login"]["coordinators"].as_array().unwrap()[0]));
    let login = ["--context-file", &contexts, "login", "--user", "eve", "--ca-digest", &digest, &address];
    assert_eq!(run(&cluster, &login, PASSWORDS[2].as_bytes(), &mut said).0, Some(3));
    assert_eq!(run(&cluster, &login, PASSWORDS[0].as_bytes(), &mut said).0, Some(0));
    let twice = format!("{}\n{}\n", PASSWORDS[0], PASSWORDS[1]);
    let change = ["--context-file", &contexts, "user", "password"];
    assert_eq!(run(&cluster, &change, twice.as_bytes(), &mut said).0, Some(0));

    let mut lines = String::new();
    for pid in cluster.processes().values() {
        let line = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap();
        lines.push_str(&String::from_utf8_lossy(&line));
        // Whatever this machine does with core files, there are none.
        let limits = fs::read_to_string(format!("/proc/{}/limits", pid.as_raw_nonzero())).unwrap();
        let cores = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(cores.split_whitespace().nth(4), Some("0"), "{cores}");
    }
    said.extend_from_slice(lines.as_bytes());
    // Each process is crashed where it would leave a core file, and started again.
    for name in &names {
        cluster.signal(name, Signal::ABORT);
        wait::until("an aborted process to be gone", std::time::Duration::from_secs(60), || {
            (!cluster.processes().contains_key(name)).then_some(())
        });
    }
    up(&cluster);
    run(&cluster, &["secret", "delete", "mask", "--yes"], b"", &mut said);

    let once = [key_secret.as_str(), token_secret.as_str()];
    let canaries = CANARIES.into_iter().chain(PASSWORDS).chain([VAULT_TOKEN, VAULT_VALUE]).chain(once);
    let mut needles = needles(canaries);
    for (name, secret) in [("the API key", &key_secret), ("the join token", &token_secret)] {
        let bytes: Vec<u8> = secret
            .as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect();
        needles.push(Needle { form: format!("bytes of {name}"), bytes });
    }
    let searched = [cluster.cluster_directory(), copies.clone()];
    let mut places = places_below(&searched, &planted);
    places.push(("what ctl said".to_owned(), said));
    let logs: usize =
        places.iter().filter(|(place, _)| place.contains("/logs/")).map(|(_, text)| text.len()).sum();
    assert!(logs > 100_000, "the daemons have logged at level trace: {logs} bytes");
    let is_core = |place: &&String| {
        let name = place.rsplit('/').next().unwrap();
        name == "core" || name.starts_with("core.")
    };
    let cores: Vec<&String> = places.iter().map(|(place, _)| place).filter(is_core).collect();
    assert_eq!(cores, Vec::<&String>::new(), "no core file");
    let found = search(&needles, &places);
    assert_eq!(found, Vec::<String>::new(), "a secret stands in clear");

    // The search itself: each disguise is found where it is planted, in the middle of something else.
    let planted = cluster.cluster_directory().join("planted");
    fs::create_dir(&planted).unwrap();
    for needle in &needles {
        fs::write(planted.join("file"), [b"\x00before ", needle.bytes.as_slice(), b" after"].concat())
            .unwrap();
        let found = search(&needles, &places_below(std::slice::from_ref(&planted), Path::new("/")));
        assert!(found.iter().any(|line| line.starts_with(&needle.form)), "{} was not found", needle.form);
    }
}
