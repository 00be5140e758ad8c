//! A disk of its own that can be stopped: an ext4 made of a file, frozen as a failed disk looks to those who write.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

/// A mounted file system. Dropping it thaws and unmounts it.
pub struct Disk {
    image: PathBuf,
    at: PathBuf,
    frozen: bool,
}

impl Disk {
    /// Makes the folder `at` and mounts an empty file system of 128 MiB there. Needs root.
    pub fn mount(at: &Path) -> anyhow::Result<Disk> {
        let image = at.with_extension("image");
        std::fs::create_dir(at).with_context(|| format!("making {}", at.display()))?;
        std::fs::File::create(&image)
            .and_then(|file| file.set_len(128 << 20))
            .with_context(|| format!("making {}", image.display()))?;
        run(Command::new("/sbin/mkfs.ext4").arg("-q").arg(&image))?;
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(at))?;
        Ok(Disk { image, at: at.to_owned(), frozen: false })
    }

    /// From now on whoever writes does not come back.
    pub fn freeze(&mut self) -> anyhow::Result<()> {
        self.frozen = true;
        run(Command::new("fsfreeze").arg("--freeze").arg(&self.at))
    }

    /// Everything that waited goes on.
    pub fn thaw(&mut self) -> anyhow::Result<()> {
        self.frozen = false;
        run(Command::new("fsfreeze").arg("--unfreeze").arg(&self.at))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.frozen {
            let _ = self.thaw();
        }
        // Whoever still has files open keeps it until then.
        let _ = run(Command::new("umount").arg("--lazy").arg(&self.at));
        let _ = std::fs::remove_file(&self.image);
    }
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("running {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
