//! `tests/run` on a machine that has nothing but Rust: each step installs what it lacks.
//!
//! A copy of the script runs where the only programs are a shell's basics and an `apt-get` that notes what it is asked
//! for. What the steps would do afterwards fails there, which is no matter.

#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

/// What the script itself uses; on Debian all of it is essential.
const ESSENTIAL: [&str; 9] = ["bash", "cat", "cmp", "cp", "dirname", "env", "grep", "id", "mkdir"];

/// The programs that packages bring, as far as the script looks for them.
const APT: &str = r#"#!/bin/sh
[ "$1" = install ] || exit 0
for package; do
  case $package in install|-*) continue ;; esac
  echo "$package" >>"$(dirname "$0")/../asked"
  case $package in
    prometheus) programs="prometheus promtool" ;;
    nodejs) programs=node ;;
    procps) programs=kill ;;
    *) programs=$package ;;
  esac
  for program in $programs; do cp "$(dirname "$0")/cargo" "$(dirname "$0")/$program"; done
done
"#;

fn write_program(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// The packages that a step asks for on a machine without any of them.
fn packages_for(step: &str) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().unwrap();
    let at = |path: &str| folder.path().join(path);
    for path in
        ["tests/run", "tests/sdk/requirements.txt", "tests/sdk/package.json", "tests/browser/package.json"]
    {
        fs::create_dir_all(at(path).parent().unwrap()).unwrap();
        fs::copy(root.join(path), at(path)).unwrap();
    }
    let programs = at("bin");
    fs::create_dir(&programs).unwrap();
    for program in ESSENTIAL {
        let path = Command::new("sh").args(["-c", &format!("command -v {program}")]).output().unwrap().stdout;
        symlink(String::from_utf8(path).unwrap().trim(), programs.join(program)).unwrap();
    }
    symlink("/bin/sh", programs.join("sh")).unwrap();
    write_program(&programs.join("apt-get"), APT);
    // As root, without asking for it.
    fs::remove_file(programs.join("id")).unwrap();
    write_program(&programs.join("id"), "#!/bin/sh\necho 0\n");
    // Stands for every program but these; as Python, it makes the folder of a virtual environment.
    let does_nothing =
        "#!/bin/sh\n[ \"$2\" != venv ] || { mkdir -p \"$3/bin\" && cp \"$0\" \"$3/bin/python\"; }\n";
    write_program(&programs.join("cargo"), does_nothing);
    let mut run = Command::new("/bin/bash");
    run.arg(at("tests/run")).arg(step).env_clear().env("PATH", &programs);
    run.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    let asked = fs::read_to_string(at("asked")).unwrap_or_default();
    let mut asked: Vec<String> = asked.lines().map(str::to_owned).collect();
    asked.sort_unstable();
    asked.dedup();
    asked
}

#[test]
fn each_step_installs_the_packages_that_its_machine_lacks() {
    let steps: [(&str, &[&str]); 10] = [
        ("lints", &["gcc", "libc6-dev"]),
        ("rust", &["gcc", "libc6-dev", "procps"]),
        ("crates", &["gcc", "libc6-dev", "python3", "python3-venv"]),
        ("unused", &["gcc", "libc6-dev", "python3", "python3-venv"]),
        ("spelling", &["python3", "python3-venv"]),
        ("sdk_python", &["gcc", "libc6-dev", "python3", "python3-venv"]),
        ("prometheus", &["faketime", "gcc", "libc6-dev", "prometheus", "python3", "python3-venv"]),
        ("alerts", &["gcc", "libc6-dev", "openssl", "python3", "python3-venv"]),
        ("browser", &["chromium", "python3", "python3-venv", "nodejs", "npm"]),
        ("fuzz", &["g++", "gcc", "libc6-dev", "python3"]),
    ];
    for (step, packages) in steps {
        let asked = packages_for(step);
        for package in packages {
            assert!(
                asked.iter().any(|asked| asked == package),
                "{step} lacks {package}, asked for {asked:?}"
            );
        }
    }
}

#[test]
fn a_step_named_like_a_program_does_not_pass_for_it() {
    assert!(packages_for("prometheus").contains(&"prometheus".to_owned()));
}
