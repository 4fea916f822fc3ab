# Breaks the guard on purpose, one promise at a time. tests/sim/breaks/run and tests/cluster_breaks/run share this.
#   each_patch FOLDER [NAME…]     every patch of a folder, or only those whose names begin so
# Each patch is applied to a copy of the tree. There `build` is called, then `look` with the patch's name, which prints
# what has noticed it and fails if nothing has. Both are functions of the script that sources this.
root=$PWD
breaks=$root/target/breaks
# A target folder of its own, so that no build of the tree itself takes a broken library for a fresh one.
export CARGO_TARGET_DIR=$breaks/target
# No repository is looked for above the copy: `git apply` would leave out what is not of that one.
export GIT_CEILING_DIRECTORIES=$breaks

copy_tree() {
  # With files as new as now (-m): what was built of the last copy is stale.
  rm -rf "$breaks/tree" && mkdir -p "$breaks/tree" || exit 1
  git ls-files -z --cached --others --exclude-standard | tar --null --files-from=- -cf - | tar -xmf - -C "$breaks/tree" || exit 1
  cd "$breaks/tree" || exit 1
}

each_patch() {
  local folder=$1 unnoticed=0 wanted patch name
  shift
  copy_tree
  [ $# -gt 0 ] || set -- ''
  for wanted in "$@"; do
    for patch in "$root/$folder/$wanted"*.patch; do
      name=$(basename "$patch" .patch)
      # Patched or put back, a file is as new as now, so that cargo sees that it has changed.
      if ! git apply "$patch" || ! build; then
        printf '%s: the patch does not fit any more\n' "$name"
        exit 1
      fi
      look "$name" || unnoticed=$((unnoticed + 1))
      git apply --reverse "$patch" || exit 1
    done
  done
  [ "$unnoticed" -eq 0 ]
}
