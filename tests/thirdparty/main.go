// Thirdparty checks a log that Aureus wrote with the libraries of others alone: the checkpoint and its cosignatures, every tile, the
// inclusion of every entry, and that the log still begins with what an older checkpoint signed. It knows nothing of Aureus but C2SP's
// paths and a pack's lists of entries. The place is a folder or a zip; the result is JSON; it exits with 0 when everything holds,
// 1 when something does not, 2 when it was asked wrongly.
package main

import (
	"archive/zip"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/transparency-dev/formats/log"
	cosigned "github.com/transparency-dev/formats/note"
	"github.com/transparency-dev/formats/proof"
	merkle "github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

type problem struct {
	Check string `json:"check"`
	Found string `json:"found"`
}

type cosignature struct {
	Witness string    `json:"witness"`
	At      time.Time `json:"at"`
}

type result struct {
	OK         bool          `json:"ok"`
	Origin     string        `json:"origin"`
	Size       int64         `json:"size"`
	Root       string        `json:"root"`
	Cosigned   []cosignature `json:"cosigned"`
	Tiles      int           `json:"tiles"`
	Entries    int           `json:"entries"`
	Consistent []int64       `json:"consistent"` // sizes of older checkpoints that the log still begins with
	Proofs     int           `json:"proofs"`
	Problems   []problem     `json:"problems"`
}

func (r *result) fail(check string, err error) {
	r.Problems = append(r.Problems, problem{check, err.Error()})
}

// list is an option that may be given more than once.
type list []string

func (l *list) String() string     { return strings.Join(*l, " ") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

type asked struct {
	log                                   string
	witnesses, older, proofs, consistency list
	whole                                 bool
}

func main() {
	var a asked
	flag.StringVar(&a.log, "log", "", "verifier `key` of the log")
	flag.Var(&a.witnesses, "witness", "verifier `key` of a witness that has to have cosigned; may be repeated")
	flag.Var(&a.older, "older", "`file` of an older checkpoint; may be repeated")
	flag.Var(&a.proofs, "proof", "`file` of a c2sp.org/tlog-proof for one of the entries; may be repeated")
	flag.Var(&a.consistency, "consistency", "`file` of a consistency proof from an older checkpoint to this one; may be repeated")
	flag.BoolVar(&a.whole, "whole", false, "every tile and every entry of the tree has to be there")
	flag.Parse()
	if flag.NArg() != 1 || a.log == "" {
		fmt.Fprintln(os.Stderr, "usage: thirdparty -log KEY [options] FOLDER|ZIP")
		os.Exit(2)
	}
	place, err := open(flag.Arg(0))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	r := a.check(place)
	r.OK = len(r.Problems) == 0
	told, _ := json.MarshalIndent(r, "", "  ")
	fmt.Println(string(told))
	if !r.OK {
		os.Exit(1)
	}
}

func open(name string) (fs.FS, error) {
	if strings.HasSuffix(name, ".zip") {
		return zip.OpenReader(name)
	}
	_, err := os.Stat(name)
	return os.DirFS(name), err
}

// check looks at all there is, in order: what the log signed, who cosigned it, its tiles, its entries, its past.
func (a asked) check(place fs.FS) *result {
	r := &result{Cosigned: []cosignature{}, Consistent: []int64{}, Problems: []problem{}}
	kept := &kept{place: place}
	text, err := kept.read("checkpoint")
	if err != nil {
		r.fail("checkpoint", err)
		return r
	}
	tree, err := a.checkpoint(text)
	if err != nil {
		r.fail("checkpoint", err)
		return r
	}
	verifier, _ := note.NewVerifier(a.log)
	r.Origin, r.Size, r.Root = verifier.Name(), tree.N, tree.Hash.String()
	a.cosignatures(r, text)
	kept.tree = tree
	hashes := tlog.TileHashReader(tree, kept)
	kept.checkTiles(r, hashes, a.whole)
	entries := kept.entries(r)
	for index, entry := range entries {
		if err := included(tree, hashes, index, entry); err != nil {
			r.fail("inclusion", fmt.Errorf("entry %d: %w", index, err))
		}
	}
	r.Entries = len(entries)
	if a.whole && int64(len(entries)) != tree.N {
		r.fail("entry", fmt.Errorf("%d of %d entries are there", len(entries), tree.N))
	}
	older := map[int64]tlog.Hash{}
	for _, name := range a.older {
		a.consistent(r, tree, hashes, older, name)
	}
	for _, name := range a.proofs {
		if err := a.proof(name, entries); err != nil {
			r.fail("proof", fmt.Errorf("%s: %w", name, err))
		}
		r.Proofs++
	}
	for _, name := range a.consistency {
		if err := told(name, tree, older); err != nil {
			r.fail("proof", fmt.Errorf("%s: %w", name, err))
		}
		r.Proofs++
	}
	return r
}

// checkpoint opens a note that the log signed.
func (a asked) checkpoint(text []byte) (tlog.Tree, error) {
	verifier, err := note.NewVerifier(a.log)
	if err != nil {
		return tlog.Tree{}, err
	}
	c, _, _, err := log.ParseCheckpoint(text, verifier.Name(), verifier)
	if err != nil {
		return tlog.Tree{}, err
	}
	if len(c.Hash) != tlog.HashSize {
		return tlog.Tree{}, fmt.Errorf("a root of %d bytes", len(c.Hash))
	}
	return tlog.Tree{N: int64(c.Size), Hash: tlog.Hash(c.Hash)}, nil
}

func (a asked) cosignatures(r *result, text []byte) {
	for _, key := range a.witnesses {
		verifier, err := cosigned.NewVerifierForCosignatureV1(key)
		if err != nil {
			r.fail("cosignature", err)
			continue
		}
		opened, err := note.Open(text, note.VerifierList(verifier))
		if err != nil {
			r.fail("cosignature", fmt.Errorf("%s: %w", verifier.Name(), err))
			continue
		}
		at, err := cosigned.CoSigV1Timestamp(opened.Sigs[0])
		if err != nil {
			r.fail("cosignature", fmt.Errorf("%s: %w", verifier.Name(), err))
			continue
		}
		r.Cosigned = append(r.Cosigned, cosignature{verifier.Name(), at.UTC()})
	}
}

// included proves an entry from the tiles, and has two libraries check the proof.
func included(tree tlog.Tree, hashes tlog.HashReader, index int64, entry []byte) error {
	path, err := tlog.ProveRecord(tree.N, index, hashes)
	if err != nil {
		return err
	}
	leaf := tlog.RecordHash(entry)
	if err := tlog.CheckRecord(path, tree.N, tree.Hash, index, leaf); err != nil {
		return err
	}
	return merkle.VerifyInclusion(rfc6962.DefaultHasher, uint64(index), uint64(tree.N), leaf[:], plain(path), tree.Hash[:])
}

// consistent proves from the tiles that the log begins with what an older checkpoint signed, and has two libraries check it.
func (a asked) consistent(r *result, tree tlog.Tree, hashes tlog.HashReader, older map[int64]tlog.Hash, name string) {
	text, err := os.ReadFile(name)
	if err != nil {
		r.fail("consistency", err)
		return
	}
	old, err := a.checkpoint(text)
	if err != nil {
		r.fail("consistency", err)
		return
	}
	older[old.N] = old.Hash
	path, err := tlog.ProveTree(tree.N, old.N, hashes)
	if err == nil {
		err = bothAgree(path, tree, old)
	}
	if err != nil {
		r.fail("consistency", fmt.Errorf("with the checkpoint of %d: %w", old.N, err))
		return
	}
	r.Consistent = append(r.Consistent, old.N)
}

func bothAgree(path tlog.TreeProof, tree, old tlog.Tree) error {
	if err := tlog.CheckTree(path, tree.N, tree.Hash, old.N, old.Hash); err != nil {
		return err
	}
	return merkle.VerifyConsistency(rfc6962.DefaultHasher, uint64(old.N), uint64(tree.N), plain(path), old.Hash[:], tree.Hash[:])
}

// proof checks a proof of inclusion that came from elsewhere, with the checkpoint that it brings.
func (a asked) proof(name string, entries map[int64][]byte) error {
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	var p proof.TLogProof
	if err := p.Unmarshal(text); err != nil {
		return err
	}
	tree, err := a.checkpoint(p.Checkpoint)
	if err != nil {
		return err
	}
	entry, there := entries[int64(p.Index)]
	if !there {
		return fmt.Errorf("entry %d is not here", p.Index)
	}
	path := make(tlog.RecordProof, len(p.Hashes))
	for i, hash := range p.Hashes {
		path[i] = hash
	}
	return tlog.CheckRecord(path, tree.N, tree.Hash, int64(p.Index), tlog.RecordHash(entry))
}

// told checks a consistency proof as the server answers it: JSON {from, to, old_root, new_root, hashes}.
func told(name string, tree tlog.Tree, older map[int64]tlog.Hash) error {
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	var p struct {
		From, To int64
		Hashes   []tlog.Hash
	}
	if err := json.Unmarshal(text, &p); err != nil {
		return err
	}
	old, there := older[p.From]
	if !there || p.To != tree.N {
		return errors.New("it is not from one of the older checkpoints to this one")
	}
	return bothAgree(p.Hashes, tree, tlog.Tree{N: p.From, Hash: old})
}

func plain[Path ~[]tlog.Hash](path Path) [][]byte {
	hashes := make([][]byte, len(path))
	for i := range path {
		hashes[i] = path[i][:]
	}
	return hashes
}
