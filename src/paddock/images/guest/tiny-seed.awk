# Reads what cloud-init would from a NoCloud seed, as far as `tiny` goes: instance id, hostname, ssh keys and the hash
# of root's password, from YAML or JSON alike. A user-data file counts here only if it is a #cloud-config. The cloud's
# base configuration, at the end of vendor-data, is for cloud-init alone: keys and passwords in it are not root's.
function value(text) { sub(/^[^:]*:/, "", text); gsub(/["' \r]/, "", text); return text }
FNR == 1 { skip = (FILENAME == "user-data" && $0 !~ /^#cloud-config/) }
FILENAME == "vendor-data" && /^# The cloud's base configuration/ { skip = 1 }
skip { next }
FILENAME == "meta-data" {
    n = split($0, part, /[{},]/)
    for (i = 1; i <= n; i++) {
        if (part[i] ~ /^[ "']*instance-id["' ]*:/) print value(part[i]) > "/run/identity/instance-id"
        if (part[i] ~ /^[ "']*(local-)?hostname["' ]*:/) print value(part[i]) > "/run/identity/hostname"
    }
}
/^ *#/ { next }
{
    line = $0
    while (match(line, /(ssh-(ed25519|rsa)|ecdsa-sha2-[a-z0-9-]+|sk-[a-z0-9-]+@openssh\.com) +AAAA[A-Za-z0-9+\/=]+( [A-Za-z0-9@._+:-]+)?/)) {
        print substr(line, RSTART, RLENGTH) > "/run/identity/keys"
        line = substr(line, RSTART + RLENGTH)
    }
    if (match($0, /\$(1|5|6|7|y|gy|2[aby])\$[.\/A-Za-z0-9$=]+/)) print substr($0, RSTART, RLENGTH) > "/run/identity/password"
}
