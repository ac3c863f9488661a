# Executed by the staging Job with `bash -euo pipefail`, beside the lists. Fills the Hub's cache (HF_HOME), where runs find
# what they name; what is there is not downloaded again. HF_ENDPOINT and HF_TOKEN are honoured, and no token is printed.
lists=$(dirname "$0")

# Lines of a list, without comments and empty ones. grep ends the last line where an editor did not.
entries() {
  [ ! -e "$lists/$1" ] || grep --invert-match --extended-regexp '^[[:space:]]*(#|$)' "$lists/$1" || true
}

entries models | while read -r model revision; do
  echo "model $model, revision ${revision:-main}"
  hf download "$model" --revision "${revision:-main}" --exclude 'original/*' --exclude '*.pth' --exclude '*.gguf' --quiet
done
entries datasets | while read -r dataset revision; do
  echo "data set $dataset, revision ${revision:-main}"
  hf download "$dataset" --repo-type dataset --revision "${revision:-main}" --quiet
done
du --summarize --human-readable "$HF_HOME"
