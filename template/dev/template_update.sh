#!/bin/sh
# Updates the template on a branch, and describes the result in DIRECTORY: dev/template_update.sh DIRECTORY
#
# The program is in the template, hooks/propose_update.py, and is fetched at the version of this service. The checksum
# came with this file in a reviewed update, so nobody can run another program with the tokens of this job.
set -eu
cd "$(dirname "$0")/.."
# The answers file, whose name `copier copy -a` chooses: of several, the one of this directory.
answers=$(git grep --files-with-matches --all-match -e '^_src_path: ' -e '^project_slug: ' |
  awk -F / '{ print NF, $0 }' | sort -n | sed -n '1s/^[0-9]* //p')
answer() { sed -n "s/^$1: *//p" "$answers" | tr -d "'\""; }
url=$(answer _src_path | sed 's|^gh:|https://github.com/|; s|^gl:|https://gitlab.com/|; s|^git+||')
clone=$(mktemp -d)
trap 'rm -rf "$clone"' EXIT
if ! git clone --quiet --bare "$url" "$clone"; then
  echo "The template cannot be read: see above. If it is private, this job needs a token that reads it." >&2
  exit 1
fi
git -C "$clone" show "$(answer _commit):hooks/propose_update.py" > "$clone/propose_update.py"
echo "e5c5c66866db3e8bd28f731074728ac432e467de2525139f70583cc5ff1ef010  $clone/propose_update.py" | sha256sum --check --quiet
uv run --quiet --script "$clone/propose_update.py" "$1"
