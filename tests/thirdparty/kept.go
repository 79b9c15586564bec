package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

const height = 8 // of C2SP's tiles: 256 hashes wide

// kept is what lies in a place: a pack, with its log under log/, or a static tile directory.
type kept struct {
	place fs.FS
	tree  tlog.Tree
}

func (k *kept) read(name string) ([]byte, error) {
	data, err := fs.ReadFile(k.place, "log/"+name)
	if errors.Is(err, fs.ErrNotExist) {
		return fs.ReadFile(k.place, name)
	}
	return data, err
}

// C2SP's tile/0/x001/234 is tile/8/0/x001/234 to tlog, and entries are data.
func tileOf(path string) (tlog.Tile, error) {
	rest, found := strings.CutPrefix(path, "tile/")
	if !found {
		return tlog.Tile{}, fmt.Errorf("%s is no tile", path)
	}
	if bundle, found := strings.CutPrefix(rest, "entries/"); found {
		rest = "data/" + bundle
	}
	return tlog.ParseTilePath(fmt.Sprintf("tile/%d/%s", height, rest))
}

func pathOf(tile tlog.Tile) string {
	rest := strings.TrimPrefix(tile.Path(), fmt.Sprintf("tile/%d/", height))
	if bundle, found := strings.CutPrefix(rest, "data/"); found {
		rest = "entries/" + bundle
	}
	return "tile/" + rest
}

func (k *kept) Height() int { return height }

func (k *kept) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	data := make([][]byte, len(tiles))
	for i, tile := range tiles {
		read, err := k.read(pathOf(tile))
		if err != nil {
			return nil, err
		}
		data[i] = read
	}
	return data, nil
}

func (k *kept) SaveTiles([]tlog.Tile, [][]byte) {}

// walk visits every file under tile/.
func (k *kept) walk(visit func(path string, tile tlog.Tile, data []byte) error) error {
	root := "tile"
	if _, err := fs.Stat(k.place, "log"); err == nil {
		root = "log/tile"
	}
	return fs.WalkDir(k.place, root, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		path := strings.TrimPrefix(name, "log/")
		tile, err := tileOf(path)
		if err != nil {
			return err
		}
		data, err := fs.ReadFile(k.place, name)
		if err != nil {
			return err
		}
		return visit(path, tile, data)
	})
}

// checkTiles compares each tile that lies here, hash by hash, with what the root says it has to be.
func (k *kept) checkTiles(r *result, hashes tlog.HashReader, whole bool) {
	there := map[tlog.Tile]bool{}
	err := k.walk(func(path string, tile tlog.Tile, data []byte) error {
		there[tile] = true
		if tile.L < 0 {
			return nil
		}
		r.Tiles++
		if err := sameHashes(tile, data, hashes); err != nil {
			r.fail("tile", fmt.Errorf("%s: %w", path, err))
		}
		return nil
	})
	if err != nil {
		r.fail("tile", err)
	}
	if !whole {
		return
	}
	for _, tile := range tlog.NewTiles(height, 0, k.tree.N) {
		if !there[tile] {
			r.fail("tile", fmt.Errorf("%s is not here", pathOf(tile)))
		}
	}
}

func sameHashes(tile tlog.Tile, data []byte, hashes tlog.HashReader) error {
	if len(data) != tile.W*tlog.HashSize {
		return fmt.Errorf("%d bytes are not %d hashes", len(data), tile.W)
	}
	indexes := make([]int64, tile.W)
	for i := range indexes {
		indexes[i] = tlog.StoredHashIndex(tile.L*height, tile.N<<height+int64(i))
	}
	proven, err := hashes.ReadHashes(indexes)
	if err != nil {
		return err
	}
	for i, hash := range proven {
		if !bytes.Equal(hash[:], data[i*tlog.HashSize:(i+1)*tlog.HashSize]) {
			return fmt.Errorf("hash %d is not in the tree", i)
		}
	}
	return nil
}

// entries are those of the pack's lists, or of the bundles: by index, which is one less than the position.
func (k *kept) entries(r *result) map[int64][]byte {
	found := map[int64][]byte{}
	for _, lists := range []string{"keys.tsv", "entries/*.tsv", "index/committed.tsv"} {
		names, _ := fs.Glob(k.place, lists)
		for _, name := range names {
			if err := k.list(name, found); err != nil {
				r.fail("entry", fmt.Errorf("%s: %w", name, err))
			}
		}
	}
	err := k.walk(func(path string, tile tlog.Tile, data []byte) error {
		if tile.L >= 0 {
			return nil
		}
		if err := bundle(tile, data, found); err != nil {
			r.fail("entry", fmt.Errorf("%s: %w", path, err))
		}
		return nil
	})
	if err != nil {
		r.fail("entry", err)
	}
	return found
}

func (k *kept) list(name string, found map[int64][]byte) error {
	data, err := fs.ReadFile(k.place, name)
	if err != nil {
		return err
	}
	for line := range bytes.Lines(data) {
		text, entry, _ := bytes.Cut(bytes.TrimSuffix(line, []byte("\n")), []byte("\t"))
		position, err := strconv.ParseInt(string(text), 10, 64)
		if err != nil {
			return err
		}
		found[position-1] = entry
	}
	return nil
}

func bundle(tile tlog.Tile, data []byte, found map[int64][]byte) error {
	index := tile.N << height
	for range tile.W {
		if len(data) < 2 || len(data) < 2+int(binary.BigEndian.Uint16(data)) {
			return fmt.Errorf("it ends within entry %d", index)
		}
		length := int(binary.BigEndian.Uint16(data))
		found[index] = data[2 : 2+length]
		data, index = data[2+length:], index+1
	}
	if len(data) > 0 {
		return fmt.Errorf("%d bytes follow its last entry", len(data))
	}
	return nil
}
