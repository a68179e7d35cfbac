//! The image that holds a pod's namespaces open: one program that waits for ever.

use std::io;

use serde_json::json;
use sha2::{Digest, Sha256};

/// `1: mov $34, %eax; syscall; jmp 1b`: pause(2), again and again (x86-64).
const CODE: [u8; 9] = [0xb8, 34, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7];
const BASE: u64 = 0x40_0000;
const HEADERS: u64 = 64 + 56;

/// A static program of one loadable segment (System V ABI, "ELF Header" and "Program Header").
fn program() -> Vec<u8> {
    let size = HEADERS + CODE.len() as u64;
    // Each field with its width in bytes, little-endian.
    let fields: [(u64, usize); 21] = [
        // ET_EXEC, EM_X86_64, version; entry, program headers, no section headers; flags.
        (2, 2),
        (62, 2),
        (1, 4),
        (BASE + HEADERS, 8),
        (64, 8),
        (0, 8),
        (0, 4),
        // The sizes of this header and of a program header, and how many of them.
        (64, 2),
        (56, 2),
        (1, 2),
        (64, 2),
        (0, 2),
        (0, 2),
        // PT_LOAD, readable and executable: the whole file at its base.
        (1, 4),
        (5, 4),
        (0, 8),
        (BASE, 8),
        (BASE, 8),
        (size, 8),
        (size, 8),
        (0x1000, 8),
    ];
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    for (value, width) in fields {
        elf.extend(&value.to_le_bytes()[..width]);
    }
    elf.extend(CODE);
    elf
}

/// An OCI layout (image-spec, "Image Layout") in a tar, which names the image for containerd.
pub(super) fn archive(name: &str) -> io::Result<Vec<u8>> {
    let layer = tar(&[("pause", &program())])?;
    let config = json!({
        "architecture": "amd64", "os": "linux",
        "config": { "Entrypoint": ["/pause"], "User": "65535:65535" },
        "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
    })
    .to_string();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", config.as_bytes()),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
    })
    .to_string();
    let mut top = descriptor(
        "application/vnd.oci.image.manifest.v1+json",
        manifest.as_bytes(),
    );
    top["annotations"] = json!({ "io.containerd.image.name": name });
    let index = json!({ "schemaVersion": 2, "manifests": [top] }).to_string();
    let blob = |bytes: &[u8]| format!("blobs/{}", digest(bytes).replace(':', "/"));
    tar(&[
        ("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#),
        ("index.json", index.as_bytes()),
        (&blob(manifest.as_bytes()), manifest.as_bytes()),
        (&blob(config.as_bytes()), config.as_bytes()),
        (&blob(&layer), &layer),
    ])
}

fn tar(files: &[(&str, &[u8])]) -> io::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o755);
        tar.append_data(&mut header, path, *bytes)?;
    }
    tar.into_inner()
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

fn descriptor(media_type: &str, bytes: &[u8]) -> serde_json::Value {
    json!({ "mediaType": media_type, "digest": digest(bytes), "size": bytes.len() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn the_program_runs_until_it_is_killed() {
        use std::os::unix::fs::PermissionsExt;
        use std::os::unix::process::ExitStatusExt;

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pause");
        std::fs::write(&path, program()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut child = std::process::Command::new(&path).spawn().unwrap();
        // A program that cannot run ends with another signal, or did not start at all.
        let call = format!("/proc/{}/syscall", child.id());
        while !std::fs::read_to_string(&call).unwrap().starts_with("34 ") {
            assert_eq!(child.try_wait().unwrap(), None);
        }
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9));
    }
}
